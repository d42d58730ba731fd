"""How far a shape is from another, and a viewpoint from another.

Distances are Euclidean, unsquared, in the unit of the clouds they are given. Clouds are arrays of points
sampled from surfaces, float32 or float64, in one frame.
"""

import numpy as np
from jaxtyping import Float, Int
from pykdtree.kdtree import KDTree

Cloud = Float[np.ndarray, "_ 3"]
Angles = Float[np.ndarray, "..."] | float


def nearest(
    points: Float[np.ndarray, "queries 3"], target: Float[np.ndarray, "targets 3"] | KDTree
) -> tuple[Float[np.ndarray, " queries"], Int[np.ndarray, " queries"]]:
    """Distance from each point to the nearest target point, and the index of that one.

    A tree as `target` (`search_tree`) saves building it again; its precision must be that of the points.
    """
    tree = target if isinstance(target, KDTree) else search_tree(target.astype(points.dtype, copy=False))
    distance, index = tree.query(np.ascontiguousarray(points))
    return distance, index.astype(np.int64)


def search_tree(points: Cloud) -> KDTree:
    """A k-d tree over points, for `nearest`."""
    return KDTree(np.ascontiguousarray(points))


def nearest_distances(
    predicted: Float[np.ndarray, "predicted 3"], target: Float[np.ndarray, "target 3"]
) -> tuple[Float[np.ndarray, " predicted"], Float[np.ndarray, " target"]]:
    """Distances from each predicted point to the target, and from each target point to the prediction.

    Every metric below is a function of these two arrays, so the search is done once.
    """
    return nearest(predicted, target)[0], nearest(target, predicted)[0]


def accuracy(to_target: Float[np.ndarray, " predicted"]) -> float:
    """Mean distance from the predicted points to the target: how much of the prediction is right."""
    return float(np.mean(to_target, dtype=np.float64))


def completeness(to_predicted: Float[np.ndarray, " target"]) -> float:
    """Mean distance from the target points to the prediction: how much of the target is there."""
    return float(np.mean(to_predicted, dtype=np.float64))


def chamfer_distance(to_target: Float[np.ndarray, " predicted"], to_predicted: Float[np.ndarray, " target"]) -> float:
    """Mean of accuracy and completeness, unsquared (ShapeClipper Eq. 8); tables show 10 times this.

    >>> chamfer_distance(np.array([1.0, 3.0]), np.array([0.0, 0.0]))
    1.0
    """
    return (accuracy(to_target) + completeness(to_predicted)) / 2


def f_score(
    to_target: Float[np.ndarray, " predicted"], to_predicted: Float[np.ndarray, " target"], threshold: float
) -> float:
    """Harmonic mean of the fractions of either cloud within a threshold of the other; 0 if both are 0.

    ``FS@d = 2 P R / (P + R)`` (ShapeClipper Sec. 4.2), in [0, 1], with P the predicted points within `threshold` of
    the target and R the target points within `threshold` of the prediction.

    >>> f_score(np.array([0.0, 1.0]), np.array([0.0, 0.0]), 0.1)
    0.6666666666666666
    """
    precision = float(np.mean(to_target <= threshold))
    recall = float(np.mean(to_predicted <= threshold))
    total = precision + recall
    return 2 * precision * recall / total if total else 0.0


def camera_azimuth(rotation: Float[np.ndarray, "*shape 3 3"]) -> Angles:
    """Azimuth in degrees in [-180, 180) of the camera of a world-to-camera rotation: 0 at +y, 90 at -x."""
    towards_camera = -rotation[..., 2, :]
    return wrap_degrees(np.degrees(np.arctan2(-towards_camera[..., 0], towards_camera[..., 1])))


def wrap_degrees(angle: Angles) -> Angles:
    """The same angle in [-180, 180) degrees."""
    return (angle + 180) % 360 - 180


def azimuth_error(predicted: Angles, target: Angles, offset: float = 0.0) -> Angles:
    """Unsigned difference of azimuths in degrees in [0, 180] after turning the prediction by `offset` degrees.

    A system that is hard-symmetric in x and never sees a viewpoint can only settle its canonical front at +y
    or at -y: offsets 0 and 180 are the two that mean the same to it. Choose the better of the two for a whole
    system and category, never for each instance.
    """
    return np.abs(wrap_degrees(predicted + offset - target))


def azimuth_entropy(azimuth: Float[np.ndarray, " samples"], bins: int = 12, weights=None) -> float:
    """Entropy of the histogram of azimuths in degrees over its largest value, log(bins): 1 even, 0 collapsed.

    Few samples cannot fill the bins evenly: 40 drawn uniformly reach about 0.94 with 12 bins.
    """
    bin_of = np.floor(azimuth % 360 / 360 * bins).astype(int) % bins
    count = np.bincount(bin_of, weights=weights, minlength=bins)
    fraction = count[count > 0] / count.sum()
    return max(0.0, float(-(fraction * np.log(fraction)).sum() / np.log(bins)))


def rotation_error(predicted: Float[np.ndarray, "*some 3 3"], target: Float[np.ndarray, "*others 3 3"]) -> Angles:
    """Geodesic distance of rotations in degrees in [0, 180]: the angle of the one turn that joins them."""
    # from the chord |A - B|_F = 2 sqrt(2) sin(angle / 2), which stays exact near 0 where arccos does not
    chord = np.linalg.norm(predicted - target, axis=(-2, -1)) / (2 * np.sqrt(2))
    return np.degrees(2 * np.arcsin(np.clip(chord, 0, 1)))

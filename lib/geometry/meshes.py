"""Meshes: marching cubes, sampling, ray casting and carving.

A mesh is a ``trimesh.Trimesh`` in the world frame. A surface that does not exist (an SDF of one sign) is
the empty mesh, one without faces: `is_empty` tells, and no function here invents points for it.
"""

from collections.abc import Callable

import numpy as np
import trimesh
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene
from jaxtyping import Bool, Float
from skimage import measure

from lib.errors import InputError

SdfFunction = Callable[[Float[np.ndarray, "points 3"]], Float[np.ndarray, " points"]]
POINTS_PER_CALL = 2**18  # grid points handed to an SDF function at once: 3 MB of coordinates


def grid_axis(resolution: int, bound: float) -> Float[np.ndarray, " samples"]:
    """Coordinates of the samples along each axis of a grid."""
    if resolution < 2:
        raise InputError(f"Marching cubes needs a resolution of at least 2, not {resolution}.")
    return np.linspace(-bound, bound, resolution, dtype=np.float32)


def grid_points(resolution: int, bound: float = 0.6) -> Float[np.ndarray, "samples 3"]:
    """World coordinates of the samples of a cubic grid, z running fastest.

    Parameters
    ----------
    resolution : int
        Samples along each axis; the first is at ``-bound`` and the last at ``+bound``.
    bound : float
        Half the side of the grid in world units; 0.6 is the released evaluation's.

    Returns
    -------
    ndarray, shape (resolution**3, 3), float32
        ``.reshape(resolution, resolution, resolution, 3)`` is indexed [x, y, z].
    """
    axis = grid_axis(resolution, bound)
    return np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)


def marching_cubes(
    sdf: Float[np.ndarray, "x y z"] | SdfFunction,
    bound: float = 0.6,
    *,
    resolution: int = 100,
    level: float = 0.0,
    released_shrink: bool = False,
) -> trimesh.Trimesh:
    """Mesh of the level set ``sdf = level``, faces turned outwards (towards larger values).

    Parameters
    ----------
    sdf : ndarray, shape (N, N, N), or function (points, 3) -> (points,)
        Values at `grid_points`, or what computes them; negative inside.
    bound : float
        Half the side of the grid in world units. A surface that leaves the grid is cut open there.
    resolution : int
        Samples along each axis, for a function; an array brings its own.
    released_shrink : bool
        The released code of ShapeClipper, Cat3D and SDF-SRN divides a vertex index by N, the number of
        samples, where the last index is N - 1. That shrinks a mesh by (N - 1) / N and moves its centre by
        -bound / N along every axis. True reproduces it, for study.

    Returns
    -------
    trimesh.Trimesh
        The empty mesh where the values do not cross the level.

    Raises
    ------
    InputError
        The array is no cube, or values are not finite.
    """
    if callable(sdf):
        points = grid_points(resolution, bound)
        parts = [np.asarray(sdf(part)) for part in np.array_split(points, -(-len(points) // POINTS_PER_CALL))]
        sdf = np.concatenate(parts).reshape((resolution,) * 3)
    values = np.asarray(sdf, dtype=np.float32)
    if len(set(values.shape)) != 1:
        raise InputError(f"Marching cubes needs a cubic grid of values, not one of shape {values.shape}.")
    if not np.isfinite(values).all():
        raise InputError("The SDF has values that are NaN or infinite: the network that made it has diverged.")
    if not values.min() < level < values.max():
        return trimesh.Trimesh()
    index, faces, _, _ = measure.marching_cubes(values, level)
    steps = len(values) if released_shrink else len(values) - 1
    vertices = index.astype(np.float64) * (2 * bound / steps) - bound
    return trimesh.Trimesh(vertices, faces, process=False)


def is_empty(mesh: trimesh.Trimesh) -> bool:
    """Whether a mesh has no surface."""
    return len(mesh.faces) == 0 or not mesh.area > 0


def sample_surface(mesh: trimesh.Trimesh, count: int, seed: int | list[int] = 0) -> Float[np.ndarray, "count 3"]:
    """Points drawn uniformly by area, float32, in the frame of the mesh.

    Parameters
    ----------
    seed : int or list of int
        Of ``numpy.random.default_rng``: the same seed gives the same points.

    Raises
    ------
    InputError
        The mesh is empty.
    """
    if is_empty(mesh):
        raise InputError("An empty mesh has no points to sample.")
    generator = np.random.default_rng(seed)
    cumulative = np.cumsum(mesh.area_faces)
    # sorted draws make the reads below run through memory in order
    draws = np.sort(generator.random(count)) * cumulative[-1]
    corner = mesh.triangles[np.searchsorted(cumulative, draws, side="right").clip(max=len(cumulative) - 1)]
    u, v = generator.random((2, count, 1))
    fold = u + v > 1  # the far half of the parallelogram is folded back into the triangle
    u, v = np.where(fold, 1 - u, u), np.where(fold, 1 - v, v)
    points = corner[:, 0] + u * (corner[:, 1] - corner[:, 0]) + v * (corner[:, 2] - corner[:, 0])
    return points.astype(np.float32)


def to_unit_cube(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    """A copy with the centre of its bounding box at the origin and its longest side 1."""
    if is_empty(mesh):
        raise InputError("An empty mesh cannot be scaled to the unit cube.")
    mesh = mesh.copy()
    low, high = mesh.bounds
    mesh.vertices = (mesh.vertices - (low + high) / 2) / (high - low).max()
    return mesh


def ray_scene(mesh: trimesh.Trimesh) -> EmbreeScene:
    """The faces of a mesh that is not empty, made ready for `first_hits`."""
    scene = EmbreeScene()
    TriangleMesh(scene, np.ascontiguousarray(mesh.triangles, dtype=np.float32))
    return scene


def first_hits(
    scene: EmbreeScene, origins: Float[np.ndarray, "rays 3"], directions: Float[np.ndarray, "rays 3"]
) -> Float[np.ndarray, " rays"]:
    """Distance along each ray to the first face it meets, from either side; infinite where it meets none.

    The frame is the mesh's; distances are in lengths of the direction.
    """
    origins, directions = (np.ascontiguousarray(part, dtype=np.float32) for part in (origins, directions))
    distance = scene.run(origins, directions, query="DISTANCE")
    return np.where(distance < 1e30, distance, np.inf)  # Embree marks a miss with a huge number


def look_directions() -> Float[np.ndarray, "26 3"]:
    """Unit vectors towards the faces, edges and corners of a cube."""
    steps = np.stack(np.meshgrid(*[[-1.0, 0.0, 1.0]] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    steps = steps[np.abs(steps).sum(1) > 0]
    return steps / np.linalg.norm(steps, axis=1, keepdims=True)


def carve_occupancy(
    mesh: trimesh.Trimesh, resolution: int = 48, bound: float = 0.6
) -> Bool[np.ndarray, "resolution resolution resolution"]:
    """Which `grid_points` cannot be seen from outside: the inside of a mesh that need not be watertight.

    The mesh, within the grid, is looked at in parallel projection along `look_directions`, with 192 x 192 rays in each
    view; a grid point in front of the surface (or beside it) in any view is carved away.
    """
    points, scene = grid_points(resolution, bound), ray_scene(mesh)
    inside = np.ones(len(points), dtype=bool)
    reach, size = np.sqrt(3) * bound, 192  # any turn of the grid fits in a square of this half side
    axis = (np.arange(size) + 0.5) / size * 2 * reach - reach
    u, v = (part.ravel() for part in np.meshgrid(axis, axis, indexing="ij"))
    for direction in look_directions():
        # rows of the frame: two axes of the image, then the way that the rays go
        frame = np.linalg.svd(-direction[None])[2][[1, 2, 0]]
        frame[2] = -direction
        origins = np.stack([u, v, np.full(u.size, -2 * reach)], axis=1) @ frame
        depth = first_hits(scene, origins, np.broadcast_to(frame[2], origins.shape)) - 2 * reach
        in_view = points[inside] @ frame.T  # only what is still inside is looked at again
        pixel = ((in_view[:, :2] + reach) / (2 * reach) * size).astype(int).clip(0, size - 1)
        inside[inside] = in_view[:, 2] >= depth.reshape(size, size)[pixel[:, 0], pixel[:, 1]]
    return inside.reshape((resolution,) * 3)

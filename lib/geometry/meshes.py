"""Meshes: marching cubes, cleaning, sampling, ray casting and carving.

A mesh is a ``trimesh.Trimesh`` in the world frame. A surface that does not exist (an SDF of one sign) is
the empty mesh, one without faces: `is_empty` tells, and no function here invents points for it.
"""

from collections.abc import Callable

import numpy as np
import trimesh
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene
from jaxtyping import Bool, Float, Int
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from skimage import measure

from lib.errors import InputError

SdfFunction = Callable[[Float[np.ndarray, "points 3"]], Float[np.ndarray, " points"]]
POINTS_PER_CALL = 2**18  # grid points handed to an SDF function at once: 3 MB of coordinates


def grid_points(resolution: int, bound: float = 0.6) -> Float[np.ndarray, "samples 3"]:
    """World coordinates of the samples of a cubic grid, z running fastest.

    Parameters
    ----------
    resolution : int
        Samples an axis; the first is at ``-bound`` and the last at ``+bound``.
    bound : float
        Half the side of the grid in world units; 0.6 is the released evaluation's.

    Returns
    -------
    ndarray, shape (resolution**3, 3), float32
        ``.reshape(resolution, resolution, resolution, 3)`` is indexed [x, y, z].
    """
    axis = grid_axis(resolution, bound)
    return np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)


def grid_axis(resolution: int, bound: float) -> Float[np.ndarray, " samples"]:
    """Coordinates of the samples along each axis of a grid."""
    if resolution < 2:
        raise InputError(f"Marching cubes needs a resolution of at least 2, not {resolution}.")
    return np.linspace(-bound, bound, resolution, dtype=np.float32)


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
        Samples an axis, for a function; an array brings its own.
    level : float
        Value on the surface.
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
    values = _grid_values(sdf, resolution, bound) if callable(sdf) else np.asarray(sdf, dtype=np.float32)
    if len(set(values.shape)) != 1:
        raise InputError(f"Marching cubes needs a cubic grid of values, not one of shape {values.shape}.")
    if not np.isfinite(values).all():
        raise InputError("The SDF has values that are NaN or infinite: the network that made it has diverged.")
    if not values.min() < level < values.max():
        return trimesh.Trimesh()
    index, faces, _, _ = measure.marching_cubes(values, level)  # faces turn towards larger values, outwards
    steps = len(values) if released_shrink else len(values) - 1
    vertices = index.astype(np.float64) * (2 * bound / steps) - bound
    return trimesh.Trimesh(vertices, faces, process=False)


def is_empty(mesh: trimesh.Trimesh) -> bool:
    """Whether a mesh has no surface."""
    return len(mesh.faces) == 0 or not mesh.area > 0


def clean_mesh(mesh: trimesh.Trimesh, min_area_fraction: float = 0.01) -> trimesh.Trimesh:
    """A copy without degenerate faces and without small loose parts.

    Parameters
    ----------
    mesh : trimesh.Trimesh
        Colours of vertices are kept.
    min_area_fraction : float
        A connected part with less than this fraction of the whole area is dropped; the largest stays.
    """
    mesh = mesh.copy()
    mesh.update_faces(mesh.area_faces > 1e-12)
    if len(mesh.faces):
        part = _face_parts(mesh)
        area = np.bincount(part, weights=mesh.area_faces)
        keep = area >= min(min_area_fraction * area.sum(), area.max())
        mesh.update_faces(keep[part])
    mesh.remove_unreferenced_vertices()
    return mesh


def sample_surface(mesh: trimesh.Trimesh, count: int, seed: int | list[int] = 0) -> Float[np.ndarray, "count 3"]:
    """Points drawn uniformly by area.

    Parameters
    ----------
    mesh : trimesh.Trimesh
        Not empty.
    count : int
        Number of points.
    seed : int or list of int
        Of ``numpy.random.default_rng``: the same seed gives the same points.

    Returns
    -------
    ndarray, shape (count, 3), float32
        In the frame of the mesh.

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

    Parameters
    ----------
    scene : EmbreeScene
        Of `ray_scene`.
    origins, directions : ndarray, shape (rays, 3)
        In the frame of the mesh; distances are in lengths of the direction.
    """
    distance = scene.run(
        np.ascontiguousarray(origins, dtype=np.float32),
        np.ascontiguousarray(directions, dtype=np.float32),
        query="DISTANCE",
    )
    return np.where(distance < 1e30, distance, np.inf)  # Embree marks a miss with a huge number


def look_directions() -> Float[np.ndarray, "26 3"]:
    """Unit vectors towards the faces, edges and corners of a cube."""
    steps = np.stack(np.meshgrid(*[[-1.0, 0.0, 1.0]] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    steps = steps[np.abs(steps).sum(1) > 0]
    return steps / np.linalg.norm(steps, axis=1, keepdims=True)


def sample_outer_surface(mesh: trimesh.Trimesh, count: int, seed: int = 0) -> Float[np.ndarray, "count 3"]:
    """Points drawn uniformly by area from what can be seen from outside along one of `look_directions`.

    Meshes made by designers hide whole drawers and doubled walls that no photo shows; a reconstruction from
    photos should not be asked for them.
    """
    chosen = np.empty((0, 3), dtype=np.float32)
    for attempt in range(100):
        points = sample_surface(mesh, count, [seed, attempt])
        chosen = np.concatenate([chosen, points[_seen_from_outside(mesh, points)]])
        if len(chosen) >= count:
            return np.random.default_rng([seed, 100]).permutation(chosen)[:count]
    raise InputError("Less than one hundredth of the mesh can be seen from outside.")


def carve_occupancy(
    mesh: trimesh.Trimesh, resolution: int = 48, bound: float = 0.6, image_size: int = 192
) -> Bool[np.ndarray, "resolution resolution resolution"]:
    """Which points of a grid cannot be seen from outside: the inside of a mesh that need not be watertight.

    The mesh is looked at in parallel projection along 26 directions; a grid point in front of the surface
    (or beside it) in any view is carved away.

    Parameters
    ----------
    mesh : trimesh.Trimesh
        Within the grid.
    resolution, bound
        As in `grid_points`.
    image_size : int
        Rays along each side of a view.

    Returns
    -------
    ndarray, shape (resolution, resolution, resolution), bool
        True inside.
    """
    points = grid_points(resolution, bound)
    inside = np.ones(len(points), dtype=bool)
    scene = ray_scene(mesh)
    for direction in look_directions():
        # only what is still inside has to be looked at again
        inside[inside] = ~_in_front(scene, points[inside], direction, bound, image_size)
    return inside.reshape((resolution,) * 3)


def _grid_values(sdf: SdfFunction, resolution: int, bound: float) -> Float[np.ndarray, "x y z"]:
    points = grid_points(resolution, bound)
    parts = [np.asarray(sdf(part)) for part in np.array_split(points, -(-len(points) // POINTS_PER_CALL))]
    return np.concatenate(parts).astype(np.float32).reshape((resolution,) * 3)


def _face_parts(mesh: trimesh.Trimesh) -> Int[np.ndarray, " faces"]:
    # faces that share a vertex belong to one part
    start, end = mesh.faces[:, [0, 1]].ravel(), mesh.faces[:, [1, 2]].ravel()
    size = len(mesh.vertices)
    graph = coo_matrix((np.ones(len(start), dtype=bool), (start, end)), shape=(size, size))
    return connected_components(graph, directed=False)[1][mesh.faces[:, 0]]


def _seen_from_outside(mesh: trimesh.Trimesh, points: Float[np.ndarray, "points 3"]) -> Bool[np.ndarray, " points"]:
    reach = 2 * float(mesh.scale)
    seen = np.zeros(len(points), dtype=bool)
    scene = ray_scene(mesh)
    for direction in look_directions():
        hidden = points[~seen]
        distance = first_hits(scene, hidden + reach * direction, np.broadcast_to(-direction, hidden.shape))
        seen[~seen] = distance > reach - 1e-4 * mesh.scale
    return seen


def _in_front(
    scene: EmbreeScene,
    points: Float[np.ndarray, "points 3"],
    direction: Float[np.ndarray, " 3"],
    bound: float,
    image_size: int,
) -> Bool[np.ndarray, " points"]:
    # rows of the frame: two axes of the image, then the way that the rays go
    frame = np.linalg.svd(-direction[None])[2][[1, 2, 0]]
    frame[2] = -direction
    reach = np.sqrt(3) * bound  # any turn of the grid fits in a square of this half side
    axis = (np.arange(image_size) + 0.5) / image_size * 2 * reach - reach
    u, v = np.meshgrid(axis, axis, indexing="ij")
    origins = np.stack([u.ravel(), v.ravel(), np.full(u.size, -2 * reach)], axis=1) @ frame
    depth = first_hits(scene, origins, np.broadcast_to(frame[2], origins.shape)) - 2 * reach
    in_view = points @ frame.T
    pixel = ((in_view[:, :2] + reach) / (2 * reach) * image_size).astype(int).clip(0, image_size - 1)
    return in_view[:, 2] < depth.reshape(image_size, image_size)[pixel[:, 0], pixel[:, 1]]

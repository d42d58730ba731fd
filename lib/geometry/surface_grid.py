"""The values of a signed distance on a grid, asked for only where marching cubes will look."""

from functools import reduce

import numpy as np
from jaxtyping import Float, Int

from lib.geometry.meshes import POINTS_PER_CALL, SdfFunction, grid_axis


def surface_grid(
    sdf: SdfFunction, resolution: int = 100, bound: float = 0.6, *, stride: int = 4, slope: float = 2.0
) -> Float[np.ndarray, "x y z"]:
    """Values for `marching_cubes` that are asked for near the surface only, a tenth of the grid or so.

    Every `stride`-th sample is asked first. A block between them is looked into where its corners differ in sign, or
    where one is so near to 0 that a function of this slope could reach 0 inside. There every second sample between is
    asked, and so on: smaller blocks have nearer corners. Of the smallest, two samples wide, each that may hold a
    surface is asked as a whole, and so is each that a surface enters from a neighbour. Elsewhere the values are those
    of the nearest corner, which have the right sign if the function is no steeper than `slope`: then the mesh is that
    of the whole grid.

    Parameters
    ----------
    sdf : function (points, 3) -> (points,)
        Signed distance, negative inside.
    stride : int
        Samples between two corners of the first blocks; then half of it, down to 2.
    slope : float
        Steeper functions may hide a part inside a block that no corner tells of and no surface leads to. A signed
        distance has slope 1.

    Returns
    -------
    ndarray, shape (resolution, resolution, resolution), float32
    """
    axis = grid_axis(resolution, bound)
    values, known = np.zeros((resolution,) * 3, np.float32), np.zeros((resolution,) * 3, dtype=bool)
    inside = np.ones_like(known)  # where a surface may be
    while True:
        corners = np.unique(np.append(np.arange(0, resolution, stride), resolution - 1))
        at_corners = np.zeros_like(known)
        at_corners[np.ix_(corners, corners, corners)] = True
        _ask(sdf, axis, values, known, at_corners & inside)
        nearest = corners[np.abs(np.arange(resolution)[:, None] - corners).argmin(1)]
        values = np.where(known, values, values[np.ix_(nearest, nearest, nearest)])
        reach = slope * np.sqrt(3) / 2 * stride * (axis[1] - axis[0])
        low, high = _over_blocks(values[np.ix_(corners, corners, corners)], np.arange(len(corners)))
        # a corner that the function could get to 0 from counts as one of either sign
        wanted = (low <= reach) & (high >= -reach)
        if stride <= 3:
            break
        inside, stride = _samples_of(wanted, corners), stride // 2
    while wanted.any():
        _ask(sdf, axis, values, known, _samples_of(wanted, corners))
        wanted = _entered(values, corners) & ~_all_known(known, corners)
    return values


def _ask(sdf: SdfFunction, axis: np.ndarray, values: np.ndarray, known: np.ndarray, samples: np.ndarray) -> None:
    """Fill in the values of samples that are not known yet."""
    new = samples & ~known
    if new.any():
        values[new] = _values_at(sdf, axis, np.argwhere(new))
        known |= new


def _values_at(
    sdf: SdfFunction, axis: Float[np.ndarray, " samples"], index: Int[np.ndarray, "points 3"]
) -> Float[np.ndarray, " points"]:
    """Values at samples of a grid, by index."""
    parts = np.array_split(index, max(1, -(-len(index) // POINTS_PER_CALL)))
    return np.concatenate([np.asarray(sdf(axis[part])) for part in parts]).astype(np.float32)


def _over_blocks(values: np.ndarray, corners: np.ndarray, axes: tuple[int, ...] = (0, 1, 2)):
    """Smallest and largest value of each block, its faces included."""
    low = high = values
    steps = [np.minimum(corners[:-1] + k, corners[1:]) for k in range(1 + np.diff(corners).max())]
    for axis in axes:  # a few whole planes at a time: `reduceat` takes ten times as long
        low = reduce(np.minimum, (low.take(step, axis) for step in steps))
        high = reduce(np.maximum, (high.take(step, axis) for step in steps))
    return low, high


def _samples_of(blocks: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """The samples of some blocks, their faces included."""
    for axis in range(3):
        spread = np.repeat(blocks, np.diff(corners), axis)  # from a block's first sample to the one before its last
        none = np.zeros_like(spread.take([0], axis))
        blocks = np.concatenate([spread, none], axis) | np.concatenate([none, spread], axis)
    return blocks


def _all_known(known: np.ndarray, corners: np.ndarray) -> np.ndarray:
    return _over_blocks(known, corners)[0]


def _entered(values: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Blocks with a face whose samples differ in sign."""
    size = len(corners) - 1
    entered = np.zeros((size,) * 3, dtype=bool)
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        low, high = _over_blocks(values.take(corners, axis), corners, others)
        crossed = (low < 0) & (high >= 0)
        entered |= crossed.take(range(size), axis) | crossed.take(range(1, size + 1), axis)
    return entered

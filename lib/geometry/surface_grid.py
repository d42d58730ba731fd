"""The values of a signed distance on a grid, asked for only where marching cubes will look."""

import math
from functools import reduce
from itertools import product

import numpy as np
from jaxtyping import Bool, Float

from lib.geometry.meshes import POINTS_PER_CALL, SdfFunction, grid_axis

LEVELS = 2  # how often samples half-way between are looked at: those asked first are 2^LEVELS apart


def surface_grid(
    sdf: SdfFunction, resolution: int = 100, bound: float = 0.6, *, slope: float = 2.0
) -> Float[np.ndarray, "x y z"]:
    """Values for `marching_cubes` that are asked for near the surface only, a tenth to a quarter of the grid.

    A function no steeper than `slope` stays, wherever it was not asked, between two bounds: from a value f at distance
    d it can have come to f - slope d or f + slope d, and every value nearby is such a witness. Every fourth sample is
    asked first, then those half-way between for which the bounds leave the sign open, and so on. At last all corners
    of cells in which signs differ are asked, and again of those in which they differ then. Elsewhere the value is a
    bound, which has the right sign: the mesh is that of the whole grid.

    Parameters
    ----------
    sdf : function (points, 3) -> (points,)
        Signed distance, negative inside. It is asked for points a few samples beyond the grid, too.
    slope : float
        Steeper functions may hide a part that no value tells of and no surface leads to. A signed distance has slope 1.

    Returns
    -------
    ndarray, shape (resolution, resolution, resolution), float32
    """
    stride = 2**LEVELS
    axis, step = grid_axis(resolution, bound), 2 * bound / (resolution - 1)
    beyond = np.arange(1, 1 + -(resolution - 1) % stride, dtype=np.float32)
    axis = np.append(axis, np.float32(bound) + beyond * np.float32(step))
    low = np.empty((len(axis[::stride]),) * 3, np.float32)
    high = low.copy()
    _ask(sdf, axis[::stride], low, high, np.ones(low.shape, dtype=bool))
    while stride > 1:
        stride //= 2
        low, high = -_between(-low, slope * step * stride), _between(high, slope * step * stride)
        neither_or_both = (low > 0) == (high < 0)  # both: the function is steeper after all
        _ask(sdf, axis[::stride], low, high, neither_or_both & (low != high))
    grid = (slice(resolution),) * 3
    axis, low, high = axis[:resolution], np.ascontiguousarray(low[grid]), np.ascontiguousarray(high[grid])
    while True:
        cells = _any_corner(low <= 0) & _any_corner(high >= 0)
        unknown = _any_corner(np.pad(cells, 1)) & (low != high)  # corners of these cells
        if not unknown.any():
            return np.where(low > 0, low, high)
        _ask(sdf, axis, low, high, unknown)


def _ask(sdf: SdfFunction, axis: np.ndarray, low: np.ndarray, high: np.ndarray, where: np.ndarray) -> None:
    """Put values in the place of their bounds."""
    index = np.argwhere(where)
    if len(index):
        parts = np.array_split(index, -(-len(index) // POINTS_PER_CALL))
        low[where] = high[where] = np.concatenate([np.asarray(sdf(axis[part])) for part in parts])


def _between(high: Float[np.ndarray, "n n n"], reach: float) -> Float[np.ndarray, "m m m"]:
    """Upper bounds of all samples and of those half-way between, m = 2n - 1, which are `reach` from the next ones."""
    finer = np.empty([2 * size - 1 for size in high.shape], np.float32)
    for odd in product((0, 1), repeat=3):  # on an edge, a face, in the middle of 2, 4, 8 samples
        axes = [axis for axis in range(3) if odd[axis]]
        nearest = reduce(lambda values, axis: np.minimum(*_neighbors(values, axis)), axes, high)
        finer[tuple(slice(start, None, 2) for start in odd)] = nearest + math.sqrt(len(axes)) * reach if axes else high
    return finer


def _any_corner(samples: Bool[np.ndarray, "n n n"]) -> Bool[np.ndarray, "m m m"]:
    """For each cell, m = n - 1, whether any of its corners is one of these samples."""
    return reduce(lambda cells, axis: np.logical_or(*_neighbors(cells, axis)), range(3), samples)


def _neighbors(values: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """All samples but the last along an axis, and all but the first."""
    along = np.moveaxis(values, axis, 0)
    return np.moveaxis(along[:-1], 0, axis), np.moveaxis(along[1:], 0, axis)

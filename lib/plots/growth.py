"""How time and memory of a training step grow (`python -m benchmarks.growth`): measured, and predicted from counts.

Two rows set the paces: the base, and the same with the fewest rays. What lies between them in seconds, over what lies
between them in counted operations, is the pace of rendering; the rest of the base's seconds over the rest of its
operations is that of the image networks. Every other point follows from its operations. Memory is that with the fewest
rays, plus what more the forward pass keeps for the backward pass, in counted bytes. A dataset is bytes a pixel.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from lib.errors import InputError
from lib.figures.style import BLUE, GREEN, ORANGE, styled

AXES = ("batch", "rays", "samples", "image")  # what the numbers of a row's shape are
TITLES = {"batch": "images", "rays": "rays an image", "samples": "samples a ray", "image": "pixels a side"}
LABELS = {"plain": ("plain", BLUE), "fast": ("in chunks", ORANGE), "compiled": ("in chunks, compiled", GREEN)}
BYTES = 3 + 1 + 3 * 2 + 4  # of a pixel: colour, mask, normal in half precision, weight of its ray


@dataclass(frozen=True)
class Curve:
    """One way to render along one axis, in order of size.

    Attributes
    ----------
    sizes : tuple of int
    seconds, predicted_seconds : tuple of float
        A step's: processor time over threads, so that other work on the machine counts little; by the clock on a GPU.
    memory, predicted_memory : tuple of float
        Peak of the process, MB.
    """

    sizes: tuple[int, ...]
    seconds: tuple[float, ...]
    predicted_seconds: tuple[float, ...]
    memory: tuple[float, ...]
    predicted_memory: tuple[float, ...]


@dataclass(frozen=True)
class Paces:
    """What counts cost.

    Attributes
    ----------
    rendering, networks : float
        Seconds a GFLOP.
    share : float
        Of the base's operations: those that render.
    """

    rendering: float
    networks: float
    share: float


def seconds_of(row: dict) -> float:
    """Time of a row: see `Curve`."""
    return row["cpu_seconds"] / row["threads"] if row["device"] == "cpu" else row["seconds"]


def base_of(rows: Sequence[dict]) -> dict:
    """The row that lies on all axes."""
    found = [row for row in rows if row["shape"] == row["base"]]
    if not found:
        raise InputError(
            "growth.json has no row of the size that its axes share; run python -m benchmarks.growth again"
        )
    return found[0]


def paces_of(rows: Sequence[dict]) -> Paces:
    """Paces of one way to render, from its base and the row with the fewest rays."""
    base = base_of(rows)
    fewest = along(rows, "rays")[0]
    part = 1 - fewest["shape"][1] / base["shape"][1]
    if part <= 0:
        raise InputError("growth.json has no row with fewer rays than the base; run python -m benchmarks.growth again")
    operations = (base["gflop"] - fewest["gflop"]) / part
    seconds = (seconds_of(base) - seconds_of(fewest)) / part
    networks = (seconds_of(base) - seconds) / (base["gflop"] - operations)
    return Paces(seconds / operations, networks, operations / base["gflop"])


def along(rows: Sequence[dict], axis: str) -> list[dict]:
    """Rows that differ from the base in one size only, the base among them, smallest first."""
    number, base = AXES.index(axis), base_of(rows)["shape"]
    others = [i for i in range(len(AXES)) if i != number]
    found = [row for row in rows if all(row["shape"][i] == base[i] for i in others)]
    return sorted(found, key=lambda row: row["shape"][number])


def step_curves(rows: Sequence[dict]) -> dict[str, dict[str, Curve]]:
    """Axis -> way to render -> curve, of all rows of steps."""
    steps = [row for row in rows if row["name"] == "growth"]
    ways = {row["variant"]: [r for r in steps if r["variant"] == row["variant"]] for row in steps}
    return {axis: {way: _curve(own, axis) for way, own in ways.items()} for axis in AXES}


def _curve(rows: Sequence[dict], axis: str) -> Curve:
    base, paces, found = base_of(rows), paces_of(rows), along(rows, axis)
    fewest = along(rows, "rays")[0]
    fixed = fewest["memory_mb"] - fewest["kept_mb"]
    whole = seconds_of(base) / base["gflop"]
    pace = {"batch": whole, "image": paces.networks}.get(axis, paces.rendering)
    return Curve(
        tuple(row["shape"][AXES.index(axis)] for row in found),
        tuple(seconds_of(row) for row in found),
        tuple(seconds_of(base) + pace * (row["gflop"] - base["gflop"]) for row in found),
        tuple(row["memory_mb"] for row in found),
        tuple(fixed + row["kept_mb"] for row in found),
    )


def dataset_curve(rows: Sequence[dict]) -> Curve:
    """Time to draw a batch, and memory that samples are kept in, over the number of samples."""
    found = sorted((row for row in rows if row["name"] == "growth_dataset"), key=lambda row: row["shape"])
    bytes_of = [samples * side**2 * BYTES for samples, side in (row["shape"] for row in found)]
    return Curve(
        tuple(row["shape"][0] for row in found),
        tuple(seconds_of(row) for row in found),
        tuple(seconds_of(found[0]) for _ in found),
        tuple(row["kept_mb"] for row in found),
        tuple(count / 1e6 for count in bytes_of),
    )


@styled()
def growth_figure(rows: Sequence[dict]):
    """Time above and memory below, a column a size: points measured, dashed lines predicted."""
    import matplotlib.pyplot as plt

    curves, dataset = step_curves(rows), dataset_curve(rows)
    figure, axes = plt.subplots(2, 5, figsize=(9.6, 4.2), layout="constrained", sharex="col")
    for column, axis in enumerate(AXES):
        for way, curve in curves[axis].items():
            label, color = LABELS[way]
            _draw(axes[:, column], curve, color, label)
        axes[1, column].set_xlabel(TITLES[axis])
    thousandths = Curve(
        dataset.sizes,
        *(tuple(1e3 * s for s in times) for times in (dataset.seconds, dataset.predicted_seconds)),
        dataset.memory,
        dataset.predicted_memory,
    )
    _draw(axes[:, 4], thousandths, GREEN, "dataset")
    axes[1, 4].set_xlabel("images in the dataset")
    for row, title in ((0, "s a step"), (1, "peak memory, MB")):
        _share_height(axes[row, :4])
        axes[row, 0].set_ylabel(title)
    axes[0, 4].set(title="ms a batch of 12", ylim=(0, 3 * max(thousandths.seconds)))
    axes[1, 4].set(title="kept, MB", ylim=(0, None))
    axes[0, 3].legend(loc="upper left", handlelength=1.2)
    return figure


def _draw(pair, curve: Curve, color: str, label: str) -> None:
    measured, predicted = (curve.seconds, curve.memory), (curve.predicted_seconds, curve.predicted_memory)
    for axis, points, line in zip(pair, measured, predicted, strict=True):
        axis.plot(curve.sizes, line, color=color, linestyle="--", linewidth=1.2)
        axis.plot(curve.sizes, points, color=color, marker="o", markersize=4, linestyle="", label=label)
    ticks = sorted({*pair[1].get_xticks(), *curve.sizes}) if pair[1].lines[2:] else curve.sizes
    room = 0.15 * (ticks[-1] - ticks[0])  # what the name of a size takes
    near = [False, *(after - before < room for before, after in pairwise(ticks))]
    pair[1].set_xticks(ticks, ["" if close else f"{t:,.0f}" for t, close in zip(ticks, near, strict=True)], fontsize=8)


def _share_height(axes) -> None:
    """One scale for all, from 0, and its numbers at the first only."""
    top = max(axis.get_ylim()[1] for axis in axes)
    for number, axis in enumerate(axes):
        axis.set_ylim(0, top)
        axis.tick_params(labelleft=number == 0)


def growth_sentences(rows: Sequence[dict]) -> list[str]:
    """What the figure says, in numbers read from the rows."""
    curves, dataset = step_curves(rows), dataset_curve(rows)
    first = next(iter(curves["batch"]))
    steps = [row for row in rows if row["name"] == "growth" and row["variant"] == first]
    base, paces = base_of(steps), paces_of(steps)
    images, rays, samples, side = base["shape"]
    return [
        f"One step of {images} images at {side} pixels, {rays} rays of {samples} samples, counts {base['gflop']:.0f} "
        f"GFLOP, {paces.share:.0%} of them for rendering; it takes {seconds_of(base):.2g} s and {base['memory_mb']:,} "
        "MB.",
        f"Rendering runs at {1 / paces.rendering:.0f} GFLOP/s and the image networks at {1 / paces.networks:.0f}; the "
        f"fastest product of matrices beside them ran at {base['ceiling_gflops']:.0f}.",
        *(_doubled(curves[axis][first], TITLES[axis]) for axis in ("batch", "rays")),
        *(_worst(way, {axis: own[way] for axis, own in curves.items()}) for way in curves["batch"]),
        f"A batch is drawn in {1e3 * dataset.seconds[-1]:.1f} ms from {dataset.sizes[-1]:,} images, and in "
        f"{1e3 * dataset.seconds[0]:.1f} ms from {dataset.sizes[0]:,}; what its size costs is memory, "
        f"{BYTES} bytes a pixel.",
    ]


def _doubled(curve: Curve, title: str) -> str:
    factor = curve.sizes[-1] / curve.sizes[0]
    return (
        f"{factor:.0f} times as many {title} ({curve.sizes[0]:,} to {curve.sizes[-1]:,}) take "
        f"{curve.seconds[-1] / curve.seconds[0]:.1f} times as long and {curve.memory[-1] / curve.memory[0]:.1f} times "
        "the memory."
    )


def _worst(way: str, curves: dict[str, Curve]) -> str:
    """Where the predictions of one way are farthest off."""
    errors = {"time": [], "memory": []}
    for axis, curve in curves.items():
        for kind, found, line in (
            ("time", curve.seconds, curve.predicted_seconds),
            ("memory", curve.memory, curve.predicted_memory),
        ):
            errors[kind] += [
                (abs(p / m - 1), size, TITLES[axis]) for size, m, p in zip(curve.sizes, found, line, strict=True)
            ]
    parts = [
        f"{kind} by {error:.0%} ({size:,} {title})"
        for kind, (error, size, title) in ((k, max(v)) for k, v in errors.items())
    ]
    return f"Worst predictions, {LABELS[way][0]}: they miss {' and '.join(parts)}."

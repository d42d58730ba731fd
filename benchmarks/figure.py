"""How many times as fast each way is, as one picture."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def draw(rows: list[dict], path: Path) -> None:
    """Bars of the ratios of all rows but the neighbour search's, which has variants of another kind."""
    rows = [row for row in rows if row["name"] != "neighbors"]
    if not rows:
        return
    labels = [f"{row['name']}, {row['variant']} ({row['shape'][0]})" for row in rows]
    figure, axes = plt.subplots(figsize=(8, 0.3 * len(rows) + 1), layout="constrained")
    bars = axes.barh(labels, [row["ratio"] for row in rows], color="#0072B2")
    axes.bar_label(bars, [f"{row['seconds']:.3g} s" for row in rows], padding=3, fontsize=8)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.invert_yaxis()
    axes.set_xlabel("times as fast as the first variant of the same name; seconds beside the bars")
    axes.margins(x=0.15)
    figure.savefig(path, dpi=100)
    plt.close(figure)

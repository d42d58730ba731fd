"""Rows of ``results.json`` for numbers that notebooks measure about a method instead of a trained system."""

from lib.evaluation.results import commit, machine


def study_row(
    system: str,
    protocol: str,
    metric: str,
    value: float,
    unit: str,
    *,
    n: int,
    dataset: str = "none",
    split: str = "none",
    category: str = "all",
    seed: int | None = None,
    profile: str = "quick",
    seconds: float | None = None,
) -> dict:
    """One row with all of `lib.evaluation.RESULT_COLUMNS`.

    Parameters
    ----------
    system : str
        What was measured, e.g. "volume renderer, beta 0.02, 64 samples".
    protocol : str
        What it was measured against, e.g. "exact ray casting".
    n : int
        Number of rays, pixels, images or starts that `value` is a mean of.
    """
    return {
        "system": system,
        "dataset": dataset,
        "split": split,
        "category": category,
        "protocol": protocol,
        "metric": metric,
        "value": float(value),
        "unit": unit,
        "low": None,
        "high": None,
        "n": n,
        "seed": seed,
        "profile": profile,
        "steps": None,
        "commit": commit(),
        "machine": machine(),
        "seconds": seconds,
    }

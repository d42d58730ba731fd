"""Measuring shapes and viewpoints: predictions in, rows of results out, the same for every system.

`evaluate` runs a predictor over a dataset and gives the rows of ``results.json``; `evaluate_instances` gives the
numbers of every sample, and `summarize` turns those into rows. `results_table` shows rows as the papers do.
``python -m lib.evaluation --help`` is the command line.
"""

from lib.evaluation.instances import evaluate_instances, measure_shape
from lib.evaluation.predictors import Prediction, Predictor, refined_predictor, system_predictor
from lib.evaluation.results import (
    RESULT_COLUMNS,
    commit,
    machine,
    read_instances,
    read_results,
    results_table,
    write_instances,
    write_results,
)
from lib.evaluation.summary import Run, bootstrap_interval, evaluate, summarize

__all__ = [
    "RESULT_COLUMNS",
    "Prediction",
    "Predictor",
    "Run",
    "bootstrap_interval",
    "commit",
    "evaluate",
    "evaluate_instances",
    "machine",
    "measure_shape",
    "read_instances",
    "read_results",
    "refined_predictor",
    "results_table",
    "summarize",
    "system_predictor",
    "write_instances",
    "write_results",
]

"""Rows of ``results.json`` for numbers that notebooks measure: `lib.evaluation.results.study_row`."""

from lib.evaluation.results import study_row

__all__ = ["study_row"]

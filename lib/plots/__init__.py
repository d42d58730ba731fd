"""Figures for reading: functions that return a matplotlib or plotly figure."""

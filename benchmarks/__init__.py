"""Measurements of what the course claims about time, memory and recall."""

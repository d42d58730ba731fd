"""Measurements of what the course claims about time, memory and recall."""

import lib  # noqa: F401  before torch: how its threads wait is what a training has

"""The course as a machine: set up, build, run and show the notebooks (``python -m lib.course --help``)."""

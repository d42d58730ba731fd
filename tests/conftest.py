"""What every test gets: one thread, fixed seeds, shapes checked at run time."""

import os

# Before torch is imported: on a busy two-core machine two threads are many times slower than one.
for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "1"
os.environ["TQDM_DISABLE"] = "1"
os.environ["MPLBACKEND"] = "Agg"

import random
import sys

import hypothesis
import jaxtyping
import numpy as np
import pytest

# Every function of lib checks its argument types and shapes while the tests run.
jaxtyping.install_import_hook(["lib", "support"], "checking.check")

hypothesis.settings.register_profile("course", deadline=None, derandomize=True, max_examples=50, print_blob=True)
hypothesis.settings.load_profile("course")


@pytest.fixture(autouse=True)
def fixed_seeds():
    """Start each test from the same random state, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002  libraries draw from the old global generator
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(autouse=True)
def names_in_doctests(doctest_namespace):
    """Examples in docstrings may say torch and np without importing them."""
    doctest_namespace["np"] = np
    if "torch" in sys.modules:
        doctest_namespace["torch"] = sys.modules["torch"]

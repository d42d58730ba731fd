"""Learning 3D shape from single photographs: the small package behind the notebooks."""

import os

# A thread of OpenMP that has nothing to do waits by computing, by default for 10 ms and more, which
# `lib.rendering.threads` needs on the same cores. So many rounds are about 1 ms.
# It counts where torch is imported later; a user's own setting stays.
os.environ.setdefault("GOMP_SPINCOUNT", "30000")

__version__ = "0.1.0"

"""A phrase for a sample that says only what the catalogue names or what was measured."""

import numpy as np
from jaxtyping import Float

from data_scripts.sweethome import Entry, TexturedMesh


def caption(entry: Entry, mesh: TexturedMesh, stretch: Float[np.ndarray, "3"]) -> str:
    """The catalogue's name in lower case with its article."""
    name = entry.name.lower()
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"

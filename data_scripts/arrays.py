"""Names of the arrays that the scripts hand to each other."""

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

Rgb = UInt8[np.ndarray, "height width 3"]
Rgba = UInt8[np.ndarray, "height width 4"]
Mask = UInt8[np.ndarray, "height width"]  # opacity
Normals = Float[np.ndarray, "height width 3"]  # unit, camera frame, towards the camera
Vertices = Float[np.ndarray, "vertices 3"]
Faces = Int[np.ndarray, "faces 3"]  # three vertices each
Points = Float[np.ndarray, "points 3"]
Vector = Float[np.ndarray, "3"]
Matrix = Float[np.ndarray, "3 3"]
Grid = Bool[np.ndarray, "grid grid"]

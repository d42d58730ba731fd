"""Functions of a 3D point, conditioned on a code: signed distance and texture."""

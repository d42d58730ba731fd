"""Image networks: image -> features, codes, viewpoint."""

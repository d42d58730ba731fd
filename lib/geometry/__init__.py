"""Pure functions on tensors and meshes: viewpoints, rays, marching cubes, sampling, alignment, metrics."""

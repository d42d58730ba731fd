"""Small experiments of the notebooks, too long for a cell: one shape, one viewpoint, one minibatch at a time."""

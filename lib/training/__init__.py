"""The training loop, recipes, checkpoints and logs: imports systems by their face alone."""

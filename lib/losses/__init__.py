"""One term of a paper's objective a function."""

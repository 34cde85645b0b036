"""Published numbers, as printed: Tables 1 and 2 of arXiv 2502.02209v1, means of three seeds."""

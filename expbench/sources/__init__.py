"""Sources of plugins: the code that a class consists of, for the keys of its runs; and loading it again after an edit."""

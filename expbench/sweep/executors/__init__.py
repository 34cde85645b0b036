"""Executors of the parts of a sweep."""

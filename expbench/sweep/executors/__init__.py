"""Executors: where the parts of a sweep run."""

"""Smallest relevant differences, shared by claims, comparisons and the rule for ill-posed labels."""

RELATIVE_MARGIN = 0.1  # of an error
ABSOLUTE_MARGIN = 0.05  # of an accuracy

"""Constructions: explicit weights with which a network computes the function that a theorem says it can represent."""

"""Constructions: weights of a given network that are set, not drawn, so that it computes what a theorem says that it can."""

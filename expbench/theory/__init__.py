"""Theory that can be run: constructions, degrees, bounds and floors, computed and not only cited."""

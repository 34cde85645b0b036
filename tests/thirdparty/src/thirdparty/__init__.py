"""A distribution of somebody else's that offers a task and a model."""

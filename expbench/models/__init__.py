"""Model plugins, one sequence mixer a file: (B, L, D) -> (B, L, D), causal.

Folders named in EXPBENCH_MODELS_PATH join this package's path, so that a file dropped there is a model, in this process
and in every process that it starts.
"""

import os

__path__ += [folder for folder in os.environ.get("EXPBENCH_MODELS_PATH", "").split(os.pathsep) if folder]

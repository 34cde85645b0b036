"""Model plugins, one causal sequence mixer (B, L, D) -> (B, L, D) per file.

Folders in EXPBENCH_MODELS_PATH extend the path of this package: each file there is a model, also in child processes.
"""

import os

__path__ += [folder for folder in os.environ.get("EXPBENCH_MODELS_PATH", "").split(os.pathsep) if folder]

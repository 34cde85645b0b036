"""Task plugins, one per file; installed as the package ``expbench_tasks``.

Folders in EXPBENCH_TASKS_PATH extend the path of this package: each file there is a task, also in child processes.
"""

import os

__path__ += [folder for folder in os.environ.get("EXPBENCH_TASKS_PATH", "").split(os.pathsep) if folder]

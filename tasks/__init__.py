"""Task plugins, one a file; installed as the package ``expbench_tasks``.

Folders named in EXPBENCH_TASKS_PATH join this package's path, so that a file dropped there is a task, in this process
and in every process that it starts.
"""

import os

__path__ += [folder for folder in os.environ.get("EXPBENCH_TASKS_PATH", "").split(os.pathsep) if folder]

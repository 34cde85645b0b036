"""``python -m expbench`` is the command ``expbench``."""

from expbench.cli.main import main

if __name__ == "__main__":
    main()

"""Entry point of ``python -m expbench``, equivalent to the command ``expbench``."""

from expbench.cli.main import main

if __name__ == "__main__":
    main()

"""expbench: what can a sequence layer express?"""

__version__ = "0.1.0"

"""Distill chain-of-thought rationales into small language models that reason better and answer sooner.

Importing the package is cheap: it pulls in neither torch nor lightning.
"""

__version__ = "0.2.0"

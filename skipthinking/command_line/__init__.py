"""The command line: LightningCLI for training, small functions for tools.

Start with ``cli.py`` (fit, validate, test, predict, annotate); ``layers.py`` reads configs that name other configs,
``hints.py`` shortens error messages, ``generate.py``, ``suite.py`` and ``teach.py`` are tools that start without torch.
May import every room; no room imports it.
"""

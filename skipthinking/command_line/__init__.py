"""The command line: LightningCLI for training, small functions for tools.

Start with ``cli.py`` (fit, validate, test, predict, annotate, diagnose). ``parser.py`` reads configs, ``layers.py``
those that build on others and ``class_paths.py`` those of older versions; ``checks.py`` refuses settings,
``hints.py`` and ``failures.py`` say what is wrong in a line. The tools ``generate.py``, ``suite.py`` (with
``plan.py`` and ``processes.py``) and ``teach.py`` start without torch; their options are their parameters
(``parsing.py``). May import every room; only ``__main__`` imports it.
"""

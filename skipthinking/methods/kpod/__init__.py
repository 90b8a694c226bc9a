"""Keypoint-based progressive distillation (Feng et al., arXiv 2405.16064).

Start with ``method.py``. ``weighter.py`` and ``masks.py`` learn token weights in a separate run, and ``weights.py``
reads them. From ``difficulty.py``, ``clusters.py`` and ``schedule.py``, ``given.py`` derives how many steps are given
as input. May import everything up to ``methods/base.py``.
"""

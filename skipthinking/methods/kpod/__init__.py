"""Keypoint-based progressive distillation (Feng et al., arXiv 2405.16064).

Start with ``method.py``. ``weighter.py`` and ``masks.py`` learn token weights in a run of their own, ``weights.py``
reads them, ``difficulty.py``, ``clusters.py`` and ``schedule.py`` decide how many steps are given (``given.py``). May
import everything up to ``methods/base.py``.
"""

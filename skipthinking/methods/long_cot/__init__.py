"""Efficient long chain of thought (Wang et al., arXiv 2505.18440): long traces pruned by the student's own judgment.

Start with ``method.py``. ``cuts.py`` prunes traces by bisection; ``annotators.py`` applies it to all examples and
scores preference pairs. May import everything up to ``methods/base.py``.
"""

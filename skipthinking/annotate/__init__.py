"""Annotations: values that are computed per training example, mostly with the student, before instances are made.

Start with ``annotator.py``: the interface of every annotator, and the ``Notes`` that a method reads. ``runner.py`` does
the rest for all annotators: order, cache, resume, drawing; ``search.py`` shares rows among ranks, ``journal.py`` keeps
what a killed search found, ``fingerprints.py`` says what values depend on, and ``columns.py`` holds them in memory or
in a mapped file. May import the ground and tasks; knows no data format, student or method.
"""

from skipthinking.annotate.annotator import Annotator, Context, Drawing, Notes
from skipthinking.annotate.runner import Runner

__all__ = ["Annotator", "Context", "Drawing", "Notes", "Runner"]

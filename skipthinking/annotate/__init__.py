"""Annotations: what is found out about each training example with the student, once, before instances are made.

Start with ``annotator.py``: the interface that a search implements, and the ``Notes`` that a method reads.
``runner.py`` does everything else for every annotator: order, cache, journal, ranks, progress, resume, drawing.
May import the ground and tasks; knows no data format, student or method.
"""

from skipthinking.annotate.annotator import Annotator, Context, Drawing, Notes
from skipthinking.annotate.runner import Runner

__all__ = ["Annotator", "Context", "Drawing", "Notes", "Runner"]

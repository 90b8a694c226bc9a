"""How answers are generated, graded and counted.

Start with ``answers.py`` (one answer), then ``metrics.py`` (all answers of a test set) and ``intervals.py`` (95%
intervals, without torch). May import the ground, tasks, annotate, data and students.
"""

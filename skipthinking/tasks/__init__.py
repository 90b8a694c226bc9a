"""How a question is asked, and how an answer is graded.

Start with ``base.py`` (a task), then ``graders.py``, ``numbers.py`` (with ``number_text.py``), ``expressions.py`` (with
``latex.py``, ``values.py``). ``benchmarks.py`` lists the benchmarks. Each built-in task is a separate file, such as
``arithmetic.py``; ``generation.py`` has what they share: drawing problems, splits, verbose rationales. May import: the
ground.
"""

from skipthinking.tasks.base import Grade, HubSource, Task
from skipthinking.tasks.expressions import Expressions
from skipthinking.tasks.generation import Generator
from skipthinking.tasks.graders import Choices, Grader, Text, YesNo
from skipthinking.tasks.numbers import Numbers
from skipthinking.tasks.registry import generate, get_task, task_names

__all__ = [
    "Choices",
    "Expressions",
    "Generator",
    "Grade",
    "Grader",
    "HubSource",
    "Numbers",
    "Task",
    "Text",
    "YesNo",
    "generate",
    "get_task",
    "task_names",
]

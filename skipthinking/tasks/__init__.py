"""What is asked and how an answer is graded: built-in generated tasks, and known benchmarks."""

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

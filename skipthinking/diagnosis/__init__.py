"""Measures of what papers explain their methods by: gradients of core reasoning tokens, and sharpness of minima.

Start with ``gradients.py`` and ``sharpness.py`` (definitions and costs). ``core.py`` finds the core tokens, by the
ground truth of the built-in tasks, which only a diagnosis may read, or by token weights; ``callback.py`` measures in
training and for the command ``diagnose``. May import methods and the rooms before them; ``command_line`` imports it.
"""

from skipthinking.diagnosis.callback import Diagnosis
from skipthinking.diagnosis.gradients import GradientShares
from skipthinking.diagnosis.sharpness import Sharpness

__all__ = ["Diagnosis", "GradientShares", "Sharpness"]

"""Students: the only place that knows transformers."""

from skipthinking.students.base import LoRA, Student
from skipthinking.students.pretrained import Pretrained
from skipthinking.students.scratch import FromScratch

__all__ = ["FromScratch", "LoRA", "Pretrained", "Student"]

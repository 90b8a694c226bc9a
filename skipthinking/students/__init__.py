"""The only room that knows transformers: loading, adapters, scoring, generation, sharding, export.

A student is a model with its tokenizer (:class:`Student` in base.py; start there). Scoring with frozen weights is in
scoring.py (training instances), engine.py (searches: growing contexts, completions, a KV cache inside) and measures.py
(NLL, greedy hits, entropy). Imports records, checkpoints, ranks and data; annotators, methods and evaluation import it.
"""

from skipthinking.students.base import LoRA, Student
from skipthinking.students.pretrained import Pretrained
from skipthinking.students.scratch import FromScratch

__all__ = ["FromScratch", "LoRA", "Pretrained", "Student"]

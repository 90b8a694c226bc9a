"""The methods: each is a LightningModule that makes instances from examples and their notes.

Start with ``base.py`` (the hooks), then ``full_cot.py`` (ten lines), ``step_entropy.py`` (a method with its own
annotator), and the packages ``skip_thinking/``, ``kpod/`` and ``long_cot/``. May import everything up to evaluation.
"""

from skipthinking.methods.base import Distiller
from skipthinking.methods.full_cot import AnswerOnly, FullCoT
from skipthinking.methods.icot import ICoT
from skipthinking.methods.kpod.method import KPOD
from skipthinking.methods.kpod.weighter import KeypointWeighter
from skipthinking.methods.long_cot.method import LongCoT
from skipthinking.methods.multi_task import MultiTask
from skipthinking.methods.skip_thinking.cwt import CWT
from skipthinking.methods.skip_thinking.stt import STT
from skipthinking.methods.step_entropy import StepEntropy
from skipthinking.methods.token_importance import Classifier
from skipthinking.methods.token_skip import TokenSkip

__all__ = [
    "CWT", "KPOD", "STT", "AnswerOnly", "Classifier", "Distiller", "FullCoT", "ICoT", "KeypointWeighter", "LongCoT",
    "MultiTask", "StepEntropy", "TokenSkip",
]  # fmt: skip

"""The methods, each a LightningModule that differs only in how it cuts an instance."""

from skipthinking.methods.base import Distiller
from skipthinking.methods.full_cot import AnswerOnly, FullCoT
from skipthinking.methods.kpod.method import KPOD
from skipthinking.methods.kpod.weighter import KeypointWeighter
from skipthinking.methods.long_cot.method import LongCoT
from skipthinking.methods.multi_task import MultiTask
from skipthinking.methods.skip_thinking.cwt import CWT
from skipthinking.methods.skip_thinking.stt import STT

__all__ = ["CWT", "KPOD", "STT", "AnswerOnly", "Distiller", "FullCoT", "KeypointWeighter", "LongCoT", "MultiTask"]

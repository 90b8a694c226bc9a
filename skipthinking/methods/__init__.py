"""The methods, each a LightningModule that differs only in how it cuts an instance."""

from skipthinking.methods.base import Distiller
from skipthinking.methods.cwt import CWT
from skipthinking.methods.full_cot import AnswerOnly, FullCoT
from skipthinking.methods.keypoint_weighter import KeypointWeighter
from skipthinking.methods.kpod import KPOD
from skipthinking.methods.long_cot import LongCoT
from skipthinking.methods.multi_task import MultiTask
from skipthinking.methods.stt import STT

__all__ = ["CWT", "KPOD", "STT", "AnswerOnly", "Distiller", "FullCoT", "KeypointWeighter", "LongCoT", "MultiTask"]

"""FullCoT and AnswerOnly: fine-tuning on the full rationale, and on the answer without any rationale."""

from __future__ import annotations

from skipthinking.annotate.annotator import Notes
from skipthinking.data.instances import instance
from skipthinking.methods.base import Distiller
from skipthinking.records import Encoded, Instance

__all__ = ["AnswerOnly", "FullCoT"]


class FullCoT(Distiller):
    """x -> r, y: fine-tuning on the full rationale and the answer (Fine-tune-CoT, Ho et al., arXiv 2212.10071)."""

    def make_instances(self, encoded: Encoded, notes: Notes) -> list[Instance]:
        """One instance; every completion token is a target."""
        return [instance(encoded.id, encoded.prompts[""], [encoded.tokens], {0})]


class AnswerOnly(Distiller):
    """x -> y: fine-tuning on the answer sentence alone."""

    needs_rationale = False

    def make_instances(self, encoded: Encoded, notes: Notes) -> list[Instance]:
        """One instance; the answer sentence is the target."""
        return [instance(encoded.id, encoded.prompts[""], [encoded.tokens[slice(*encoded.answer)]], {0})]

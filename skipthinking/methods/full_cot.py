"""FullCoT and AnswerOnly: fine-tuning on the full rationale, and on the answer without any rationale."""

from __future__ import annotations

from skipthinking.annotate.annotator import Notes
from skipthinking.data.instances import instance
from skipthinking.methods.base import Distiller
from skipthinking.records import Encoded, Instance

__all__ = ["AnswerOnly", "FullCoT"]


class FullCoT(Distiller):
    """x -> r, y: fine-tuning on the full rationale and the answer (Fine-tune-CoT, Ho et al., arXiv 2212.10071).

    Departures from the official code: prompt and answer phrase are those of the template and the task (there "x ###",
    then "r --> y"); rationales with a wrong answer are kept unless the teacher's data leave them out, as ``teach``
    does; several rationales of a question ("diverse reasoning") are several rows of the data.
    """

    def make_instances(self, encoded: Encoded, notes: Notes) -> list[Instance]:
        """One instance; every completion token is a target."""
        return [instance(encoded.id, encoded.prompts[""], [encoded.tokens], {0})]


class AnswerOnly(Distiller):
    """x -> y: fine-tuning on the answer sentence alone, the baseline of Fine-tune-CoT; departures as there."""

    needs_rationale = False

    def make_instances(self, encoded: Encoded, notes: Notes) -> list[Instance]:
        """One instance; the answer sentence is the target."""
        return [instance(encoded.id, encoded.prompts[""], [encoded.tokens[slice(*encoded.answer)]], {0})]

"""The short help of the training commands, printed without torch; ``--help=all`` lists every option."""

from __future__ import annotations

__all__ = ["short_help"]

_COMMANDS = {
    "fit": "Train a student, test it, and export it.",
    "validate": "Answer the validation examples of a run.",
    "test": "Answer the test sets with the student of a run.",
    "predict": "Answer questions with the student of a run.",
    "annotate": "Search chunks, skips or cuts of the training examples, or weigh their tokens, and write them.",
    "diagnose": "Measure gradient shares of core tokens, and sharpness of the minimum; writes diagnosis.json.",
}
_RUN = """\
run:
  --config FILE                    settings in YAML; of several files and options, later ones win
  --run NAME, --runs_dir FOLDER    the run's folder, FOLDER/NAME
"""
_FIT = """\
  --ckpt_path last                 go on with a run that was stopped
  --seed_everything N              the seed
  --plan                           print the memory that a step needs, and stop
  --evaluate false                 no test and no export after training

training:
  --trainer.max_epochs N, --trainer.max_steps N
  --trainer.accumulate_grad_batches N
  --trainer.precision bf16-mixed
  --trainer.devices N, --trainer.strategy ddp (or fsdp2)
  --trainer.fast_dev_run true      try everything on one batch, and keep nothing
  --model.optimizer CLASS, --model.optimizer.lr X, --model.scheduler CLASS
  --model.start_from FILE          start with the student of another run's checkpoint
"""
_TRAINED = """\
  --ckpt_path FILE                 the checkpoint, in place of the run's last one
  --untrained true                 take the student as it is before training
"""
_PREDICT = """\
  --question TEXT                  a question
  --questions FILE                 a file of questions, one per line or as training rows
  --data.task NAME                 their task
"""
_DIAGNOSE = """\
  --gradients.steps N              optimizer steps whose gradients are measured; --gradients null for none
  --gradients.weights FILE         a KeypointWeighter's annotations.jsonl, for data without known core tokens
  --gradients.core_share X         share of a rationale's tokens, those of largest weight, that then are core
  --sharpness.instances N          training and test instances of the loss; --sharpness null for no sharpness
  --sharpness.radii "[X, X]"       steps along random directions, in norms of the filters
  --out NAME                       another name for diagnosis.json
"""
_METHOD = """
method and student:
  --model CLASS                    FullCoT, AnswerOnly, MultiTask, CWT, STT, KPOD, LongCoT, ICoT, TokenSkip, StepEntropy
  --model.student CLASS            Pretrained or FromScratch
  --model.student.name NAME        a hub name, a folder or a GGUF file
  --model.student.lora.r N         train an adapter; --model.student.lora null trains all weights
  --model.max_new_tokens N         longest answer
"""
_DATA = """
data:
  --data.train, --data.test        sources, as in the README
  --data.val_size N, --data.test_size N
                                   examples (or a share) to split off from training
  --data.template CLASS            Plain or Chat
  --data.batch_size N, --data.batch_tokens N, --data.eval_batch_size N
"""
_MORE = """
more:
  skipthinking {command} --help=all              every option
  skipthinking {command} --model.help CLASS      the settings of a method
  skipthinking {command} --data.help             the settings of the data
  skipthinking {command} --config FILE --print_config
                                   the settings as they are after all files and options
"""


def short_help(command: str) -> str:
    """The most important options of a training command."""
    own = {"fit": _FIT, "predict": _TRAINED + _PREDICT, "diagnose": _TRAINED + _DIAGNOSE}.get(command, _TRAINED)
    usage = f"usage: skipthinking {command} --config FILE [options]"
    return f"{usage}\n\n{_COMMANDS[command]}\n\n{_RUN}{own}{_METHOD}{_DATA}{_MORE.format(command=command)}"

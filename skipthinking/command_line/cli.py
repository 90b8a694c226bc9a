"""The training commands: LightningCLI with a folder per run and errors in one line."""

from __future__ import annotations

import json
import logging
import shlex
import sys
import warnings
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import lightning as L
import yaml
from lightning.pytorch.callbacks import ProgressBar, Timer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import SIGTERMException
from lightning.pytorch.utilities.warnings import PossibleUserWarning

from skipthinking.checkpoints import read_checkpoint, save_safely
from skipthinking.command_line.checks import (
    check_precision,
    check_run_name,
    check_settings,
    check_training,
    check_writable,
)
from skipthinking.command_line.class_paths import current_class_paths
from skipthinking.command_line.dev_run import discard, scratch
from skipthinking.command_line.failures import explain
from skipthinking.command_line.layers import expand
from skipthinking.command_line.parser import Parser
from skipthinking.command_line.planning import plan
from skipthinking.command_line.trainer import SkipTrainer
from skipthinking.command_line.wandb_mode import prepare_wandb
from skipthinking.data.module import RationaleDataModule, check_annotates
from skipthinking.methods import Distiller
from skipthinking.records import UserError
from skipthinking.report.run_folders import flat, short_settings
from skipthinking.report.summary import print_summary
from skipthinking.runs.callbacks import Annotations
from skipthinking.runs.export import export_run, update_results
from skipthinking.runs.folder import RunConfig, last_checkpoint, release_folders
from skipthinking.runs.hub import check_push, push
from skipthinking.runs.log import RunLogger
from skipthinking.runs.run_folder import run_callbacks
from skipthinking.runs.signals import Interrupts, handlers_kept
from skipthinking.runs.throughput import RunProgressBar
from skipthinking.students.sharding import check_strategy, whole_state

__all__ = ["SkipCLI", "main"]


class _Planned(Exception):
    """Ends ``fit --plan`` before it trains."""


class SkipCLI(LightningCLI):
    """LightningCLI with a run folder. A checkpoint gives weights and training state, never settings."""

    model: Distiller
    datamodule: RationaleDataModule

    def __init__(self, command: str, *classes: Any, **settings: Any) -> None:
        self._command = command
        super().__init__(*classes, **settings)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parses a command line with layered config files and class paths of older versions."""
        words, Parser.files = expand(sys.argv[1:] if args is None else args)
        self.config = parser.parse_args([current_class_paths(word) for word in words])
        settings = self.config[self.config.subcommand]
        check_settings(settings, self._parser(self.config.subcommand).get_default)
        if self.config.subcommand == "fit":
            check_run_name(settings)
        self._scratch = scratch(self.config.subcommand, settings)

    def _parse_ckpt_path(self) -> None:
        """Lightning would let the checkpoint's hyperparameters override the command line; see :meth:`_open`."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the run's own options."""
        parser.add_argument("--run", type=str, default="run", help="Name of the run: its folder is RUNS_DIR/RUN.")
        parser.add_argument("--runs_dir", type=str, default="runs", help="Folder of run folders.")
        parser.add_argument("--evaluate", type=bool, default=True, help="After fit, test and export the student.")
        parser.add_argument(
            "--push_to_hub", type=str | None, default=None,
            help="Of fit: repository on the Hugging Face hub (OWNER/NAME) that gets the exported student.",
        )  # fmt: skip
        parser.add_argument("--private", type=bool, default=True, help="Whether that repository must be private.")
        parser.add_argument("--untrained", type=bool, default=False, help="Evaluate a student without a checkpoint.")
        parser.add_argument("--question", type=str | None, default=None, help="For predict: a question.")
        parser.add_argument("--questions", type=str | None, default=None, help="For predict: a file of questions.")
        parser.add_argument("--plan", action="store_true", help="Of fit: print the memory it needs, then stop.")
        parser.add_argument("--checkpoint_every", type=int, default=500, help="Optimizer steps between checkpoints.")

    @property
    def folder(self) -> Path:
        """The run folder: the folder of a finished run's config if one is given, else RUNS_DIR/RUN."""
        run = self._get(self.config, "run")
        for path in self._get(self.config, "config") or [] if self.subcommand != "fit" else []:
            home = Path(path.absolute).parent
            saved = (home / "checkpoints").is_dir() and yaml.safe_load(Path(path.absolute).read_text())
            if saved and saved.get("run") == run:
                return home
        return Path(self._get(self.config, "runs_dir")) / run

    @property
    def output(self) -> Path:
        """The folder to write to: the run folder, or with fast_dev_run one that is removed.

        Answers by other settings than the run's own are written to a folder in it, such as RUN/mode=full or
        RUN/max_new_tokens=64.
        """
        return self._scratch or self.folder / ",".join(short_settings(self.answer_settings))

    @cached_property
    def answer_settings(self) -> dict[str, Any]:
        """Settings of how the student answers that this command changes in a run, by dotted key."""
        path = self.folder / "config.yaml"
        if self.subcommand in ("fit", "annotate", "diagnose") or not path.is_file():
            return {}
        then = flat(yaml.safe_load(path.read_text(encoding="utf-8")))
        now = flat(json.loads(self._config_as_json())[self.subcommand])
        keys = [f"model.init_args.{name}" for name in ("max_new_tokens", *self.model.answer_settings)]
        return {key: now[key] for key in keys if key in then and then[key] != now[key]}

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """A trainer that logs to the run folder, whatever loggers the config adds."""
        logger = self._get(self.config_init, "trainer.logger")
        extra = logger if isinstance(logger, list) else [logger] if logger not in (None, True, False) else []
        own_log = [RunLogger(self.folder)] if self.subcommand == "fit" else []
        self._get(self.config_init, "trainer")["logger"] = [*own_log, *extra] or False
        self._get(self.config_init, "trainer")["default_root_dir"] = str(self.output)
        interrupts = Interrupts(self.output)
        own = run_callbacks(self.output, self._get(self.config, "checkpoint_every"), self.answer_settings)
        own += [interrupts, *([Annotations(self.output)] if self.subcommand == "annotate" else [])]
        given = self._get(self.config_init, "trainer.callbacks") or []
        given = given if isinstance(given, list) else [given]
        bar = self._get(self.config_init, "trainer.enable_progress_bar") is not False
        if bar and not any(isinstance(callback, ProgressBar) for callback in given):
            own = [RunProgressBar(), *own]
        self._get(self.config_init, "trainer")["callbacks"] = [*given, *own]
        try:
            trainer = super().instantiate_trainer(**kwargs)
        except (ValueError, TypeError, ImportError) as error:
            raise UserError(f"Expected settings that Lightning can run, got: {' '.join(str(error).split())}") from error
        if self.subcommand == "fit":
            interrupts.watch(trainer)
        check_strategy(trainer.strategy)
        save_safely(trainer)
        return trainer

    def before_instantiate_classes(self) -> None:
        """Decides how W&B logs, if it does."""
        prepare_wandb(str(self._get(self.config, "run")), logged="WandbLogger" in self.parser.dump(self.config))

    # ------------------------------------------------------------------------------------ before a command

    def before_fit(self) -> None:
        """Reads all text and tries the run folder, so that bad input is reported before anything is written."""
        check_training(self.config["fit"], self.trainer)
        if self._get(self.config, "plan"):
            _say(plan(self.trainer, self.model, self.datamodule))
            raise _Planned
        if repository := self._get(self.config, "push_to_hub"):
            check_push(repository, self._get(self.config, "evaluate"))
        last = last_checkpoint(self.folder)
        given = self._get(self.config_init, "ckpt_path")
        first = _first_rank()
        if given is None and first and any((self.folder / name).exists() for name in ("metrics.csv", "checkpoints")):
            raise UserError(
                f"Expected a new run, got --run {self.folder.name}, whose folder {self.folder} holds one. "
                "Go on with it by --ckpt_path last, or give another --run."
            )
        if given == "last" and not last.exists():
            _say(f"note: no checkpoint {last} yet, so the run starts from the beginning")
        self._open((str(last) if last.exists() else None) if given == "last" else given)
        self.datamodule.load("fit")
        if first:
            check_writable(self.folder)
        config = json.loads(self._config_as_json())["fit"]
        before = self.model.prior_run(config, self.folder, self.datamodule)
        if before is not None and self.config_init["fit"]["ckpt_path"] is None:
            self._run_first(before, resume=given == "last")

    def _run_first(self, config: dict[str, Any], resume: bool) -> None:
        """Runs ``fit`` with another config, in this process and in those that Lightning starts for it.

        The processes of a multi-process run start this same command, come here too, and stay for the run that follows.
        """
        _say(f"first: {config['model']['class_path'].rpartition('.')[2]} in {config['runs_dir']}/{config['run']}")
        other = _cli(["fit", "--config", json.dumps(config), *(["--ckpt_path", "last"] if resume else [])])
        if other.trainer.interrupted:
            raise KeyboardInterrupt
        self._set_seed()  # as if nothing had been drawn

    def before_validate(self) -> None:
        """Takes the run's last checkpoint if none is given, and tries the folder of the results."""
        if self._get(self.config, "plan"):
            raise UserError(f"Expected --plan with fit, got it with {self.subcommand}. Leave it out.")
        checkpoint = self._default_checkpoint()
        self._open(checkpoint)
        writes = self.subcommand != "predict" or self.datamodule.splits.questions
        if writes and _first_rank():
            given = f" --ckpt_path {checkpoint}" if checkpoint else ""
            check_writable(self.output, f"Write to another one: --run NAME --runs_dir FOLDER{given}.")

    def before_test(self) -> None:
        """As ``validate``; the summary replaces Lightning's table."""
        self.before_validate()
        self.config_init["test"]["verbose"] = False

    def before_predict(self) -> None:
        """As ``validate``, with the questions of the command line."""
        splits = self.datamodule.splits
        for name in ("question", "questions"):
            setattr(splits, name, self._get(self.config, name) or getattr(splits, name))
        self.datamodule.load("predict")
        self.before_validate()

    def before_annotate(self) -> None:
        """The same, for a method that annotates: others are refused before any data is read."""
        own = type(self.model).annotators is not Distiller.annotators
        check_annotates(self.model, own or bool(self.model.annotators()))
        self.before_validate()

    def before_diagnose(self) -> None:
        """As ``validate``."""
        self.before_validate()

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """The command of this call alone: parsers of all would double the time to parse a command line."""
        return {self._command: LightningCLI.subcommands().get(self._command, {"model", "datamodule"})}

    def _default_checkpoint(self) -> str | None:
        given = self._get(self.config_init, "ckpt_path")
        last = last_checkpoint(self.folder)
        if given in (None, "last") and last.exists():
            _say(f"checkpoint: {last}")
            return str(last)
        if given in (None, "last"):
            if not self._get(self.config, "untrained"):
                raise UserError(
                    f"Expected a trained run, got no checkpoint in {self.folder}. Train it, give --ckpt_path, or take "
                    "the student as it is before training by --untrained true."
                )
            return None
        return given

    def _config_as_json(self) -> str:
        return self.parser.dump(self.config, format="json", skip_unset=False)

    def _open(self, path: str | None) -> None:
        """Checks a checkpoint against this run and takes its tokenizer."""
        self.config_init[self.subcommand]["ckpt_path"] = path
        check_precision(self.trainer)
        if path is None:
            return
        checkpoint = read_checkpoint(path, "--ckpt_path")
        own = checkpoint["skipthinking"]
        if own["method"] != type(self.model).__name__:
            raise UserError(
                f"Expected a checkpoint of {type(self.model).__name__}, got one of {own['method']} ({path}). "
                "Use the config.yaml of its run."
            )
        self.model.student.restore_tokenizer(own["tokenizer"])
        self.datamodule.resume(checkpoint.get(type(self.datamodule).__qualname__, {}))
        self.model.start_from = None  # the run is past it, and that checkpoint may be gone
        now = flat(json.loads(current_class_paths(self._config_as_json()))[self.subcommand])
        stored = json.loads(current_class_paths(own.get("config", "{}")))  # a run from Python has none
        then = flat(stored.get("fit", stored))
        for key in sorted(then.keys() & now.keys()):
            if key.startswith(("model.", "data.", "seed_everything")) and then[key] != now[key]:
                wins = "checkpoint's optimizer state" if ".optimizer." in key else "command line"
                _say(f"note: {key} is {now[key]!r} here and {then[key]!r} in {path}; the {wins} wins")

    # ------------------------------------------------------------------------------------- after a command

    def after_fit(self) -> None:
        """Tests the trained student, exports it, and prints the summary."""
        trainer: Any = self.trainer
        timers = [callback for callback in trainer.callbacks if isinstance(callback, Timer)]
        if self.trainer.should_stop and any((timer.time_remaining() or 1) <= 0 for timer in timers):
            _say(
                f"trainer.max_time ended the run at step {self.trainer.global_step}; it is the time of all parts of a "
                "run. Go on: raise it, with --ckpt_path last."
            )
        if not self._get(self.config, "evaluate") or self.trainer.interrupted:
            return
        tested = bool(self.datamodule.test_sets)
        if tested:
            self.trainer.test(self.model, datamodule=self.datamodule, verbose=False)
        state = whole_state(self.model.student.model)
        if self.trainer.is_global_zero:
            export_run(self.folder, self.model, self.datamodule, state, self._get(self.config, "push_to_hub"))
            if tested:
                print_summary(self.folder)
            if self._scratch is None:
                _say(self._next_commands())
        self.trainer.strategy.barrier("export")
        repository = self._get(self.config, "push_to_hub")
        # After the barrier, which NCCL ends after 30 minutes.
        if repository and self.trainer.is_global_zero and self._scratch is None:
            push(self.folder / "student", repository, self._get(self.config, "private"))

    def after_test(self) -> None:
        """Prints the summary."""
        if self.trainer.is_global_zero:
            print_summary(self.output)
            if self._scratch is None:
                update_results(self.folder, self.datamodule)

    def _next_commands(self) -> str:
        config = shlex.quote(str(self.folder / "config.yaml"))
        question = next((row.question for rows in self.datamodule.test_sets.values() for row in rows), "...")
        return "\n".join([
            f"run folder: {self.folder} (config, metrics, checkpoints, predictions, student)",
            "next:",
            f"  python -m skipthinking predict --config {config} --question {shlex.quote(question)}",
            f"  python -m skipthinking test --config {config}",
        ])  # fmt: skip


def _first_rank() -> bool:
    return getattr(rank_zero_only, "rank", 0) == 0


def _say(text: str) -> None:
    if _first_rank():
        print(text, flush=True)


def _cli(args: list[str] | None) -> SkipCLI:
    command = (sys.argv[1:] if args is None else args)[0]
    return SkipCLI(
        command, Distiller, RationaleDataModule, subclass_mode_model=True, subclass_mode_data=True, args=args,
        auto_configure_optimizers=False, load_from_checkpoint_support=False, parser_class=Parser,
        parser_kwargs={"allow_abbrev": False, "prog": "skipthinking"}, save_config_callback=RunConfig,
        seed_everything_default=0, trainer_class=SkipTrainer,
        trainer_defaults={
            "use_distributed_sampler": False, "num_sanity_val_steps": 0, "enable_model_summary": False,
            "log_every_n_steps": 10, "max_epochs": 10,
        },
    )  # fmt: skip


def main(args: list[str] | None = None) -> int:
    """Runs a training command.

    Args:
        args: Its words; those of the command line by default.

    Returns:
        0, or 2 for anything that the user can fix. Wrong options exit with 2 at once.
    """
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=PossibleUserWarning)  # hints on workers and logging intervals
    warnings.filterwarnings("ignore", message="Be aware that when using `ckpt_path`")  # another --checkpoint_every
    warnings.filterwarnings("ignore", message="The dirpath has changed from")  # a run folder that was moved
    warnings.filterwarnings("ignore", message="Total length of `.*` across ranks is zero")  # no validation set
    warnings.filterwarnings("ignore", message="fan_in_fan_out is set to")  # peft puts it right itself
    warnings.filterwarnings("ignore", message=".*gradient_checkpointing.* is deprecated")  # peft's use, and ours
    warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated")  # between lightning and torch
    try:
        with handlers_kept(), suppress(_Planned):
            _cli(args)
    except Exception as error:
        text = explain(error)
        if text is None:
            raise
        print(f"error: {text}", file=sys.stderr, flush=True)
        return 2
    except (KeyboardInterrupt, SystemExit) as stop:
        if isinstance(stop, KeyboardInterrupt) or isinstance(stop.__context__, KeyboardInterrupt):
            return 130  # Lightning exits with 1 after Ctrl-C
        if isinstance(stop, SIGTERMException):
            return 143  # and with 0 after this
        raise
    finally:
        release_folders()
        discard(_first_rank())
    return 0

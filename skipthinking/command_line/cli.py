"""The training commands: LightningCLI, a folder per run, and clear errors."""

from __future__ import annotations

import errno
import json
import logging
import os
import shlex
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import yaml
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.plugins import HalfPrecision
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException, SIGTERMException
from lightning.pytorch.utilities.warnings import PossibleUserWarning

import skipthinking.data.chunkers
import skipthinking.data.encoding
import skipthinking.data.sources
import skipthinking.data.steps
import skipthinking.methods
import skipthinking.methods.long_cot.cuts
import skipthinking.methods.schedules
import skipthinking.methods.skip_thinking.chunks
import skipthinking.methods.skip_thinking.skips
import skipthinking.students  # noqa: F401
from skipthinking.checkpoints import read_checkpoint
from skipthinking.command_line.hints import OneLineErrors, empty_settings
from skipthinking.command_line.layers import LayeredConfigs
from skipthinking.data.module import RationaleDataModule, check_annotates
from skipthinking.methods import Distiller
from skipthinking.records import UserError
from skipthinking.report.reading import flat
from skipthinking.report.summary import print_summary
from skipthinking.runs.callbacks import Annotations, Answers, Results, StartReport
from skipthinking.runs.folder import RunConfig, RunLogger, checkpoints, release_folders
from skipthinking.runs.signals import Interrupts
from skipthinking.students.sharding import WholeWeights, check_strategy, whole_state

__all__ = ["SkipCLI", "main"]

_DISK = {
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EFBIG,
    errno.EIO,
}


class Parser(LayeredConfigs, OneLineErrors, LightningArgumentParser):
    """Reads configs that stand on others; says what is wrong in one line, with the nearest valid key."""


class SkipTrainer(L.Trainer):
    """A trainer with one command more."""

    def annotate(
        self, model: L.LightningModule, datamodule: RationaleDataModule, ckpt_path: str | None = None,
        weights_only: bool | None = None,
    ) -> None:  # fmt: skip
        """Annotates the training examples with the student as it is; writes annotations.jsonl."""
        datamodule.annotating = True
        self.predict(
            model, datamodule=datamodule, ckpt_path=ckpt_path, weights_only=weights_only, return_predictions=False
        )


class SkipCLI(LightningCLI):
    """LightningCLI with a run folder. A checkpoint gives weights and training state, never settings."""

    model: Distiller
    datamodule: RationaleDataModule

    def _parse_ckpt_path(self) -> None:
        """Lightning would let the checkpoint's hyperparameters override the command line; see :meth:`_open`."""
        own = self.config[self.config.subcommand]
        if not isinstance(own.run, str):
            raise UserError(f"Expected a name, got run: {own.run}. Put it in quotes.")
        if not hasattr(own.trainer, "max_epochs"):
            raise UserError(f"Expected settings of the Trainer by their names, got trainer: {own.trainer}.")
        seed = own.seed_everything
        if not isinstance(seed, bool) and (seed is None or not 0 <= seed < 2**32):
            raise UserError(f"Expected a seed from 0 to {2**32 - 1}, got seed_everything={seed}.")
        default = self._parser(self.config.subcommand).get_default
        empty = [key for key, value in vars(own).items() if value is None and default(key) is not None]
        trainer = {"class_path": "lightning.Trainer", "init_args": own.trainer.as_dict()}
        empty += empty_settings({**own.as_dict(), "trainer": trainer})
        if empty:
            raise UserError(f"Expected a value, got {empty[0]}=null. Give one, or leave it out for its default.")

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the run's own options."""
        parser.add_argument("--run", type=str, default="run", help="Name of the run: its folder is RUNS_DIR/RUN.")
        parser.add_argument("--runs_dir", type=str, default="runs", help="Where run folders live.")
        parser.add_argument("--evaluate", type=bool, default=True, help="After fit, test and export the student.")
        parser.add_argument("--untrained", type=bool, default=False, help="Evaluate a student without a checkpoint.")
        parser.add_argument("--question", type=str | None, default=None, help="For predict: what to ask.")
        parser.add_argument("--questions", type=str | None, default=None, help="For predict: a file of questions.")
        parser.add_argument("--checkpoint_every", type=int, default=500, help="Optimiser steps between checkpoints.")

    @property
    def folder(self) -> Path:
        """The run folder: where the config of a finished run lies, else RUNS_DIR/RUN."""
        run = self._get(self.config, "run")
        for path in self._get(self.config, "config") or [] if self.subcommand != "fit" else []:
            home = Path(path.absolute).parent
            saved = (home / "checkpoints").is_dir() and yaml.safe_load(Path(path.absolute).read_text())
            if saved and saved.get("run") == run:
                return home
        return Path(self._get(self.config, "runs_dir")) / run

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """A trainer that logs to the run folder, whatever loggers the config adds."""
        logger = self._get(self.config_init, "trainer.logger")
        extra = logger if isinstance(logger, list) else [logger] if logger not in (None, True, False) else []
        every = self._get(self.config, "checkpoint_every")
        if every < 1:
            raise UserError(f"Expected at least 1 step between checkpoints, got checkpoint_every={every}.")
        own_log = [RunLogger(self.folder)] if self.subcommand == "fit" else []
        self._get(self.config_init, "trainer")["logger"] = [*own_log, *extra] or False
        self._get(self.config_init, "trainer")["default_root_dir"] = str(self.folder)
        own: list[Callback] = [kind(self.folder) for kind in (Interrupts, Results, Answers, Annotations)]
        own = [WholeWeights(), *own, StartReport(), *checkpoints(self.folder, every)]
        given = self._get(self.config_init, "trainer.callbacks") or []
        self._get(self.config_init, "trainer")["callbacks"] = [*(given if isinstance(given, list) else [given]), *own]
        try:
            trainer = super().instantiate_trainer(**kwargs)
        except (ValueError, TypeError, ImportError) as error:
            raise UserError(f"Expected settings that Lightning can run, got: {' '.join(str(error).split())}") from error
        check_strategy(trainer.strategy)
        return trainer

    def before_instantiate_classes(self) -> None:
        """Runs W&B offline where it has no key."""
        keyless = "WandbLogger" in self.parser.dump(self.config) and not _wandb_key()
        if keyless and os.environ.setdefault("WANDB_MODE", "offline") == "offline":
            _say("W&B: no key found, logging offline; `wandb sync` uploads it later.")
        os.environ.setdefault("WANDB_NAME", str(self._get(self.config, "run")))

    # ------------------------------------------------------------------------------------ before a command

    def before_fit(self) -> None:
        """Opens the run folder and reads all text, so that bad input is told before anything is written."""
        name = self._get(self.config, "run")
        if not name or Path(name).name != name:
            raise UserError(f"Expected the name of a folder, got --run {name!r}. Say where it lies by --runs_dir.")
        if self._get(self.config, "trainer.max_epochs") == 0:
            raise UserError("Expected at least one epoch, got trainer.max_epochs=0. Raise it.")
        if self._get(self.config, "trainer.max_steps") == 0:
            raise UserError("Expected at least one optimiser step, got trainer.max_steps=0. Raise it.")
        clip = self._get(self.config, "trainer.gradient_clip_val")
        if clip is not None and clip < 0:
            raise UserError(f"Expected a norm of at least 0 (0: no clipping), got trainer.gradient_clip_val={clip}.")
        limit, together = (
            self._get(self.config, f"trainer.{key}") for key in ("limit_train_batches", "accumulate_grad_batches")
        )
        if limit is not None and together > 1 and (not isinstance(limit, int) or limit % together):
            raise UserError(
                f"Expected epochs of whole optimiser steps, got trainer.limit_train_batches={limit} with "
                f"trainer.accumulate_grad_batches={together}. Give a multiple of {together}."
            )
        cores = os.cpu_count() or 1
        if isinstance(self.trainer.accelerator, CPUAccelerator) and self.trainer.num_devices > cores:
            raise UserError(
                f"Expected at most one process per core, of which there are {cores}, got "
                f"trainer.devices={self.trainer.num_devices} with the CPU. Lower it."
            )
        last = self.folder / "checkpoints" / "last.ckpt"
        given = self._get(self.config_init, "ckpt_path")
        first = _first_rank()
        if given is None and first and any((self.folder / name).exists() for name in ("metrics.csv", "checkpoints")):
            raise UserError(
                f"Expected a new run, got --run {self.folder.name}, whose folder {self.folder} holds one. "
                "Go on with it by --ckpt_path last, or give another --run."
            )
        self._open((str(last) if last.exists() else None) if given == "last" else given)
        self.datamodule.load("fit")
        if first:
            _check_writable(self.folder)
        config = json.loads(self.parser.dump(self.config, format="json", skip_unset=False))["fit"]
        before = self.model.prior_run(config, self.folder, self.datamodule)
        if before is not None and self.config_init["fit"]["ckpt_path"] is None:
            self._run_first(before, resume=given == "last")

    def _run_first(self, config: dict[str, Any], resume: bool) -> None:
        """Another run of ``fit``, from its config, in this process and in those that Lightning starts for it.

        The processes of a multi-process run start this very command, come here as well, and stay for the run after it.
        """
        _say(f"first: {config['model']['class_path'].rpartition('.')[2]} in {config['runs_dir']}/{config['run']}")
        words = ["fit", "--config", json.dumps(config), *(["--ckpt_path", "last"] if resume else [])]
        own = _cli(words)
        if own.trainer.interrupted:
            raise KeyboardInterrupt
        self._set_seed()  # as if nothing had been drawn

    def before_validate(self) -> None:
        """Takes the run's last checkpoint if none is given."""
        self._open(self._default_checkpoint())

    def before_test(self) -> None:
        """The same; the summary takes the place of Lightning's table."""
        self.before_validate()
        self.config_init["test"]["verbose"] = False

    def before_predict(self) -> None:
        """The same, with the questions of the command line."""
        splits = self.datamodule.splits
        for name in ("question", "questions"):
            setattr(splits, name, self._get(self.config, name) or getattr(splits, name))
        self.datamodule.load("predict")
        self.before_validate()

    def before_annotate(self) -> None:
        """The same, for a method that annotates: others are refused before any data is read."""
        check_annotates(self.model, type(self.model).annotators is not Distiller.annotators)
        self.before_validate()

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Lightning's, and annotate."""
        return {**LightningCLI.subcommands(), "annotate": {"model", "datamodule"}}

    def _default_checkpoint(self) -> str | None:
        given = self._get(self.config_init, "ckpt_path")
        last = self.folder / "checkpoints" / "last.ckpt"
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

    def _open(self, path: str | None) -> None:
        """Checks a checkpoint against this run and takes its tokenizer."""
        self.config_init[self.subcommand]["ckpt_path"] = path
        if isinstance(self.trainer.precision_plugin, HalfPrecision):
            name = self._get(self.config, "trainer.precision")
            raise UserError(
                f"Expected float32, bf16-mixed or 16-mixed, got trainer.precision={name}, which rounds loss weights, "
                "reference likelihoods and rotary frequencies too. For weights in bfloat16 say "
                "model.student.init_args.dtype=bfloat16, with trainer.precision=bf16-mixed."
            )
        if path is None:
            return
        own = read_checkpoint(path, "--ckpt_path")["skipthinking"]
        if own["method"] != type(self.model).__name__:
            raise UserError(
                f"Expected a checkpoint of {type(self.model).__name__}, got one of {own['method']} ({path}). "
                "Use the config.yaml of its run."
            )
        self.model.student.restore_tokenizer(own["tokenizer"])
        self.model.start_from = None  # the run has come further; that checkpoint may be gone
        now = flat(json.loads(self.parser.dump(self.config, format="json", skip_unset=False))[self.subcommand])
        config = json.loads(own.get("config", "{}"))  # a trainer by itself knows of none
        then = flat(config.get("fit", config))
        for key in sorted(then.keys() & now.keys()):
            if key.startswith(("model.", "data.", "seed_everything")) and then[key] != now[key]:
                wins = "checkpoint's optimizer state" if ".optimizer." in key else "command line"
                _say(f"note: {key} is {now[key]!r} here and {then[key]!r} in {path}; the {wins} wins")

    # ------------------------------------------------------------------------------------- after a command

    def after_fit(self) -> None:
        """Tests the student as trained, exports it, and prints the summary."""
        if not self._get(self.config, "evaluate") or self.trainer.interrupted:
            return
        tested = bool(self.datamodule.test_sets)
        if tested:
            self.trainer.test(self.model, datamodule=self.datamodule, verbose=False)
        state = whole_state(self.model.student.model)
        if self.trainer.is_global_zero:
            self.model.student.export(self.folder / "student", state, self.model.completion_marks)
            if tested:
                self._summarise()
            _say(self._next_commands())
        self.trainer.strategy.barrier("export")

    def after_test(self) -> None:
        """Prints the summary."""
        if self.trainer.is_global_zero:
            self._summarise()

    def _summarise(self) -> None:
        print_summary(self.folder)

    def _next_commands(self) -> str:
        config = shlex.quote(str(self.folder / "config.yaml"))
        question = next((row.question for rows in self.datamodule.test_sets.values() for row in rows), "...")
        return "\n".join([
            f"run folder: {self.folder} (config, metrics, checkpoints, predictions, student)",
            "next:",
            f"  python -m skipthinking predict --config {config} --question {shlex.quote(question)}",
            f"  python -m skipthinking test --config {config}",
        ])  # fmt: skip


def _check_writable(folder: Path) -> None:
    """Looks whether a folder can be written, and leaves no trace of it."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"Expected a run folder that can be written, got {error}. Choose another --runs_dir."
        ) from error
    finally:
        for path in made:
            if path.exists():
                path.rmdir()


def _user_error(error: BaseException | None) -> UserError | None:
    """The user's error that an exception wraps; the parser wraps what constructors raise."""
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__ or error.__context__
    return error


def _first_rank() -> bool:
    return getattr(rank_zero_only, "rank", 0) == 0


def _say(text: str) -> None:
    if _first_rank():
        print(text, flush=True)


def _wandb_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    import netrc

    try:
        return any("wandb" in host for host in netrc.netrc().hosts)
    except (FileNotFoundError, netrc.NetrcParseError):
        return False


def _cli(args: list[str] | None) -> SkipCLI:
    return SkipCLI(
        Distiller, RationaleDataModule, subclass_mode_model=True, subclass_mode_data=True, args=args,
        auto_configure_optimizers=False, load_from_checkpoint_support=False, parser_class=Parser,
        parser_kwargs={"allow_abbrev": False}, save_config_callback=RunConfig, seed_everything_default=0,
        trainer_class=SkipTrainer,
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
        0, or 2 for anything that the user can mend. Wrong options exit with 2 at once.
    """
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=PossibleUserWarning)  # hints on workers and logging intervals
    warnings.filterwarnings("ignore", message="LightningCLI's args parameter")  # tests and notebooks call main
    warnings.filterwarnings("ignore", message="Be aware that when using `ckpt_path`")  # another --checkpoint_every
    warnings.filterwarnings("ignore", message="The dirpath has changed from")  # a run folder that was moved
    warnings.filterwarnings("ignore", message="Total length of `list` across ranks is zero")  # no validation set
    warnings.filterwarnings("ignore", message="fan_in_fan_out is set to")  # peft puts it right itself
    warnings.filterwarnings("ignore", message=".*gradient_checkpointing.* is deprecated")  # peft's use, and ours
    warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated")  # between lightning and torch
    try:
        _cli(args)
    except MisconfigurationException as error:
        return _fail(f"Expected settings that Lightning can run, got: {' '.join(str(error).split())}")
    except ValueError as error:
        mendable = _user_error(error)
        if mendable is None:
            raise
        return _fail(str(mendable))
    except OSError as error:
        if error.errno not in _DISK:
            raise
        return _fail(f"Expected to be able to write, got {error}. Free some space or choose another --runs_dir.")
    except (KeyboardInterrupt, SystemExit) as stop:
        if isinstance(stop, KeyboardInterrupt) or isinstance(stop.__context__, KeyboardInterrupt):
            return 130  # Lightning exits with 1 after Ctrl-C
        if isinstance(stop, SIGTERMException):
            print("stopped by SIGTERM. Go on: the same command with --ckpt_path last.", file=sys.stderr, flush=True)
            return 143  # and with 0 after this
        raise
    finally:
        release_folders()
    return 0


def _fail(text: str) -> int:
    print(f"error: {text}", file=sys.stderr, flush=True)
    return 2

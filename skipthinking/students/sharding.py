"""FSDP2 for students whose weights, gradients and optimizer state do not fit on one device: strategy ``fsdp2``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, cast
from weakref import WeakSet

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy, StrategyRegistry
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import FSDPModule, fully_shard

from skipthinking.checkpoints import check_shapes, read_checkpoint
from skipthinking.records import UserError
from skipthinking.students.merging import merged

__all__ = ["Sharded", "WholeWeights", "check_strategy", "gathered", "whole_state"]

_GATHERED: WeakSet[nn.Module] = WeakSet()  # modules whose weights are currently gathered


class Sharded(ModelParallelStrategy):
    """FSDP2 (Zhao et al., arXiv 2304.11277, as implemented by ``torch.distributed.fsdp.fully_shard``) on all processes.

    Weights, gradients and optimizer state are sharded over the ranks, and each block of layers is gathered while it is
    computed. Everything but training (answers, annotations, scores) runs on gathered weights, because ranks have
    different numbers of batches there; so one copy of the weights must fit on a device. Checkpoints contain full
    weights, like those of other strategies. Unlike Lightning's ``fsdp``, it also runs on CPUs.

    Args:
        kwargs: See ModelParallelStrategy.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False, **kwargs)

    def setup_environment(self) -> None:
        """Makes all processes one data-parallel group."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def setup(self, trainer: L.Trainer) -> None:
        """Shards the student before the optimizer sees its weights.

        Raises:
            UserError: The method also trains weights outside of the student, whose gradients would not be reduced, or
                the student is compiled.
        """
        method: Any = self.lightning_module
        model = method.student.model
        if method.student.compiled:
            raise UserError(
                "Expected layers that are not compiled, because sharding changes them, got "
                "model.student.compile=true. Set model.student.compile: false."
            )
        if not isinstance(model, FSDPModule):
            own = {id(parameter) for parameter in model.parameters()}
            others = [name for name, p in method.named_parameters() if p.requires_grad and id(p) not in own]
            if others:
                raise UserError(
                    f"Expected a method that trains the student alone, got {type(method).__name__}, which also trains "
                    f"{others[0]}. Use --trainer.strategy ddp."
                )
            for blocks in model.modules():
                for block in blocks if isinstance(blocks, nn.ModuleList) else ():
                    fully_shard(block, mesh=self.device_mesh["data_parallel"])
            fully_shard(model, mesh=self.device_mesh["data_parallel"])
        super().setup(trainer)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Loads the shards of a checkpoint's weights; returns the checkpoint with full weights, for the method."""
        state = read_checkpoint(str(checkpoint_path), "--ckpt_path")["state_dict"]
        assert self.lightning_module is not None
        check_shapes(state, self.lightning_module.state_dict())
        return {**super().load_checkpoint(checkpoint_path, weights_only), "state_dict": state}


StrategyRegistry.register("fsdp2", Sharded, description="FSDP2 over all processes")


def check_strategy(strategy: Any) -> None:
    """Rejects strategies other than :class:`Sharded` that shard weights.

    Raises:
        UserError: With this strategy, evaluation would deadlock, or gradients would not be summed.
    """
    if isinstance(strategy, (FSDPStrategy, DeepSpeedStrategy, ModelParallelStrategy)) and type(strategy) is not Sharded:
        raise UserError(
            f"Expected a strategy that gathers weights for evaluation, got {type(strategy).__name__}. "
            "Use --trainer.strategy fsdp2, or ddp."
        )


@contextmanager
def gathered(module: nn.Module) -> Iterator[None]:
    """Gathers the full weights on every rank, for work that ranks do independently; all ranks must enter together.

    Does nothing if no module is sharded, or within another such block.
    """
    parts = [part for part in module.modules() if isinstance(part, FSDPModule) and part not in _GATHERED]
    for part in parts:
        _GATHERED.add(part)
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for i, part in enumerate(parts):
            _GATHERED.remove(part)
            part.set_reshard_after_forward(i > 0, recurse=False)  # the root keeps its weights for the backward pass
            part.reshard()


def whole_state(module: nn.Module) -> dict[str, Tensor] | None:
    """The full state of a sharded module, on the CPU of rank 0; None if the module is not sharded.

    All ranks must call it together.
    """
    if not isinstance(module, FSDPModule):
        return None
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return cast("dict[str, Tensor]", get_model_state_dict(module, options=options))


class WholeWeights(Callback):
    """Gathers the student's weights, and merges its adapters, for validation, test and prediction."""

    def __init__(self) -> None:
        self._held = ExitStack()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Gathers the weights and merges adapters."""
        student: Any = pl_module.student
        self._held.enter_context(torch.no_grad())
        self._held.enter_context(gathered(student))
        self._held.enter_context(merged(student))

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Splits adapters off and shards the weights again."""
        self._held.close()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """As at the end, so that weights are saved as they were."""
        self._held.close()

    on_test_start = on_predict_start = on_validation_start
    on_test_end = on_predict_end = on_validation_end

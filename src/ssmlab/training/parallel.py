"""A training step in pieces: on several processes, one after the other on one, or both, and the same update each way.

The step's batch is chosen first and divided then. A piece's loss is its sums divided by the numbers of the whole step,
so that the pieces' losses and gradients add up to those of the whole batch.
"""

import io
import random
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.data_loader import prepare_data_loader
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm
from transformers.trainer_pt_utils import safe_globals

from ssmlab.core.errors import UserError
from ssmlab.core.world import World
from ssmlab.training.config import FitConfig
from ssmlab.training.distributed import (
    Share,
    gather,
    in_order,
    rows_of,
    seed_apart,
    sharded_like,
    summed,
    whole,
    whole_state,
)
from ssmlab.training.task import TaskModule, counts_of

RNG = "rng_state{}.pth"  # in a checkpoint: of the first process with "", of others with _<number>


class Parallel:
    """How a network is trained by this process and others. With one process and one piece it changes nothing.

    Args:
        network, task: what is trained; with `sharding` the network's parameters are shards from now on, until `finish`.
        device: where this process computes.
    Raises:
        UserError: a setting cannot be used with shards.
    """

    def __init__(self, network: nn.Module, task: Any, config: FitConfig, world: World, device: torch.device):
        self.network, self.task, self.world, self.pieces = network, task, world, config.accumulation
        self.device = device
        self.active = world.size > 1 or config.accumulation > 1
        self.sharded = world.size > 1 and config.sharding == "full"
        self.plain: Any = None  # of a sharded network: one with whole weights, which evaluates
        self.own_norms: dict[str, nn.Module] = {}
        if config.accumulation > 1 and getattr(task, "stateful", False):
            raise UserError("training.carry_state hands on the state of a whole batch; leave training.accumulation=1")
        if self.sharded:
            used = [name for name in ("ema", "watch_gradients") if getattr(config, name)]
            used += ["freeze_by_gradient"] if config.freeze_by_gradient.steps else []
            used += ["remedy"] if hasattr(task, "terms") else []
            if used:
                raise UserError(f"training.sharding='full' cannot be used with {used[0]}; leave one of them out")
            self.plain = deepcopy(network).cpu()
        if world.size > 1 and device.type == "cuda":  # no other device has it
            self.own_norms = synchronise_norms(network)
        self.module = TaskModule(network, task)
        if self.sharded:
            self._shard()

    def notes(self) -> list[str]:
        """What a user should know of a training by several processes."""
        if self.world.size == 1:
            return []
        how = "each with a share of the weights" if self.sharded else "each with all weights"
        found = [f"{self.world.size} processes, {how}"]
        norms = [m for m in self.network.modules() if isinstance(m, _BatchNorm)]
        if any(isinstance(norm, nn.SyncBatchNorm) for norm in norms):
            found.append("batch norm: statistics of all processes (SyncBatchNorm)")
        elif norms:
            found.append("batch norm: statistics of each process' own rows; those of the first one are kept")
        return found

    def _shard(self) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        # of layers whose results are views: nothing changes these in place
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module", category=UserWarning)
        self.network.to(self.device)
        for tensor in self.network.state_dict().values():
            distributed.broadcast(tensor, 0)
        mesh = init_device_mesh(self.device.type, (self.world.size,))
        for layer in layers_of(self.network):
            fully_shard(layer, mesh=mesh)
        fully_shard(self.module, mesh=mesh)

    def share(self, data: Any) -> Any:
        """A dataset of which every batch is this process' part."""
        return data if self.world.size == 1 or data is None else Share(data, self.task, self.world)

    def adjust(self, accelerator: Any) -> None:
        """Batches are divided here, not by accelerate, and a network of shards is not wrapped once more."""
        if self.world.size == 1:
            return

        def loader(data: Any, device_placement: bool | None = None, **_: Any) -> Any:
            placed = accelerator.device_placement if device_placement is None else device_placement
            return prepare_data_loader(
                data, accelerator.device, num_processes=1, process_index=0, put_on_device=placed,
                use_seedable_sampler=True, data_seed=accelerator.dataloader_config.data_seed,
                non_blocking=accelerator.non_blocking,
            )  # fmt: skip

        accelerator.prepare_data_loader = loader
        if self.sharded:
            prepare = accelerator.prepare_model
            accelerator.prepare_model = lambda model, *_, **__: prepare(
                model, device_placement=False, evaluation_mode=True
            )

    def step(
        self,
        inputs: dict[str, Any],
        one: Callable[[dict[str, Any]], Tensor],
        held: Callable[[], AbstractContextManager],
        interrupted: bool,
    ) -> tuple[Tensor, bool]:
        """Forward and backward passes of a step.

        Args:
            inputs: this process' rows.
            one: both passes of a piece; returns its loss.
            held: a context in which gradients are not exchanged yet.
            interrupted: whether this process was asked to stop.
        Returns:
            this process' part of the loss, whose mean over all processes is the step's, and whether any was asked.
        """
        own, _ = inputs.pop("share", torch.tensor([len(inputs["labels"])] * 2)).tolist()
        counts = counts_of(self.task, self.network, inputs) * bool(own)
        *totals, stop = summed(self.world, torch.cat([counts, counts.new_tensor([interrupted])])).tolist()
        losses = []
        for number in range(self.pieces):
            part = World(number, self.pieces).share(own)
            piece = rows_of(inputs, part, self.task)
            if part.stop > part.start:
                values = [max(total, 1e-9) / self.world.size for total in totals]
            else:
                values = [float("inf")] * len(totals)  # computed so that all processes do the same, and counts nothing
            piece["totals"] = torch.tensor(values, dtype=torch.float32, device=inputs["labels"].device)
            with nullcontext() if number == self.pieces - 1 else held():
                losses.append(one(piece))
        return torch.stack(losses).sum(), stop > 0

    def held(self, model: nn.Module) -> AbstractContextManager:
        """Gradients of the passes within are kept by this process until a later one exchanges them."""
        if self.sharded:
            return _Held(self.module)
        return model.no_sync() if self.world.size > 1 else nullcontext()  # type: ignore[operator]

    # ---- evaluation ----

    def outputs(self, loader: Any, prepare: Callable, module: nn.Module) -> tuple[np.ndarray, np.ndarray]:
        """Outputs and labels of every item of a part, in its order, on every process."""
        found = []
        with torch.no_grad():
            for batch in loader:
                batch = prepare(batch)
                own = int(batch.pop("share")[0])
                outputs = module(**batch)["logits"]
                found.append((outputs[:own].float().cpu().numpy(), batch["labels"][:own].cpu().numpy()))
        parts = gather(self.world, found)
        outputs, labels = ([[batch[i] for batch in part] for part in parts] for i in (0, 1))
        return in_order(outputs), in_order(labels)

    def evaluated(self) -> nn.Module:
        """The module that evaluates: of a sharded network a copy with whole weights. All processes must call it."""
        self._same_buffers()
        if not self.sharded:
            return self.module
        self.plain.load_state_dict(whole_state(self.network))
        return TaskModule(self.plain.to(self.device), self.task).eval()

    def release(self) -> None:
        """The device has room again for what evaluated."""
        if self.sharded:
            self.plain.cpu()

    def finish(self) -> None:
        """The network has whole weights again, the same everywhere. All processes must call it."""
        self._same_buffers()
        if self.sharded:
            self.plain.load_state_dict(whole_state(self.network))
            self.network.__dict__ = self.plain.__dict__
            self.network.to(self.device)
        else:
            for name, norm in self.own_norms.items():
                self.network.set_submodule(name, norm)

    def _same_buffers(self) -> None:
        """Buffers, such as a batch norm's statistics, are those of the first process."""
        if self.world.size > 1:
            for buffer in self.network.buffers():
                distributed.broadcast(buffer, 0)

    # ---- checkpoints ----

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        """An optimizer's state without shards, as one process writes it; of others {}. All processes must call it."""
        found, first = optimizer.state_dict(), self.world.rank == 0
        state: dict[int, dict[str, Any]] = {}
        for i, one in found["state"].items():
            for name, value in one.items():
                value = whole(value)  # one at a time: together they are three times the weights
                if first:
                    state.setdefault(i, {})[name] = value
        return {"state": state, "param_groups": found["param_groups"]} if first else {}

    def load_optimizer(self, optimizer: Any, found: dict[str, Any]) -> None:
        """Give an optimizer a state that `optimizer_state` made, in shards where its parameters are."""
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        for i, one in found["state"].items():
            found["state"][i] = {
                name: sharded_like(value, parameters[int(i)]) if isinstance(value, Tensor) else value
                for name, value in one.items()
            }
        optimizer.load_state_dict(found)

    def load_weights(self, tensors: dict[str, Tensor]) -> None:
        """Give the network the weights of a checkpoint, in shards where it has them."""
        own = self.module.state_dict()
        missing = own.keys() ^ tensors.keys()
        assert not missing, f"weights of another model: {sorted(missing)[:4]}"
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(sharded_like(tensors[name], tensor))

    def save_random(self, folder: Path) -> None:
        """Write the random numbers of all processes into a checkpoint, those of the first one as a single one's."""
        state = {"python": random.getstate(), "numpy": np.random.get_state(), "cpu": torch.get_rng_state()}
        if torch.cuda.is_initialized():
            state["cuda"] = torch.cuda.get_rng_state()
        content = io.BytesIO()
        torch.save(state, content)
        for rank, found in enumerate(gather(self.world, content.getvalue())):
            (folder / RNG.format(f"_{rank}" if rank else "")).write_bytes(found)

    def load_random(self, folder: Path, seed: int, step: int) -> None:
        """Go on with this process' random numbers; with new ones of its own, where there were other processes."""
        if len(list(folder.glob(RNG.format("*")))) != self.world.size and self.world.rank:
            seed_apart(self.world, seed, step)
            return
        with safe_globals():
            file = folder / RNG.format(f"_{self.world.rank}" if self.world.rank else "")
            state = torch.load(file, weights_only=True)
        random.setstate(state["python"])
        np.random.set_state(state["numpy"])
        torch.set_rng_state(state["cpu"])
        if "cuda" in state and torch.cuda.is_initialized():
            torch.cuda.set_rng_state(state["cuda"])


class _Held:
    """No exchange of a sharded module's gradients within."""

    def __init__(self, module: Any):
        self.module = module

    def __enter__(self) -> None:
        self.module.set_requires_gradient_sync(False)

    def __exit__(self, *_: Any) -> None:
        self.module.set_requires_gradient_sync(True)


def synchronise_norms(network: nn.Module) -> dict[str, nn.Module]:
    """Let the batch norms of a network take the statistics of all processes, on GPUs.

    Returns:
        the norms that it had, by name; put back, they have what was learned, as parameters and buffers are the same.
    """
    norms: dict[str, nn.Module] = {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, _BatchNorm) and not isinstance(module, nn.SyncBatchNorm)
    }
    for name, module in norms.items():
        network.set_submodule(name, nn.SyncBatchNorm.convert_sync_batchnorm(module))
    return norms


def layers_of(network: nn.Module) -> list[nn.Module]:
    """The layers that are sharded one by one: those of the outermost lists of a network, if they have parameters."""
    found: list[nn.Module] = []
    for child in network.children():
        if isinstance(child, nn.ModuleList):
            found += [layer for layer in child if any(True for _ in layer.parameters())]
        else:
            found += layers_of(child)
    return found

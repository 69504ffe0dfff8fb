"""What keeps a network able to do its old task while it learns a new one: terms that are added to the loss.

A network has a body and a head a task. A view is the network as the old task sees it: the body that is trained now,
under the old head, which stays as it is. The loss on the old task through that view is what is forgotten.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssmlab.core.errors import UserError
from ssmlab.models.language.language_model import of_tokens
from ssmlab.training.task import Task, counts_of, loss_of

Batch = dict[str, Tensor]
Term = Callable[[nn.Module, Batch], Tensor]  # the network in training and a batch of the new task -> a scalar
Inputs = Callable[[Batch], tuple[tuple, dict, Tensor | None]]  # arguments of a view, and which positions count


class View(nn.Module):
    """A network under the head of its old task; a child says how.

    Its mode is its own: switching it leaves the network's modules in theirs.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def train(self, mode: bool = True):
        """As of any module, without the network inside."""
        self.training = mode
        return self


class SwappedHeads(View):
    """Modules of the network are exchanged for old ones during the call.

    Args:
        network: shared, not copied.
        heads: old modules by their names; they are copied, frozen, and in evaluation mode.
    """

    def __init__(self, network: nn.Module, heads: dict[str, nn.Module]):
        super().__init__(network)
        self.names = list(heads)
        self.heads = nn.ModuleList(copy.deepcopy(head).requires_grad_(False).eval() for head in heads.values())

    def forward(self, *arguments: Any, **named: Any) -> Any:
        """As the network's."""
        new = [self.network.get_submodule(name) for name in self.names]
        try:
            self._put(self.heads)
            return self.network(*arguments, **named)
        finally:
            self._put(new)

    def _put(self, heads: Iterable[nn.Module]) -> None:
        for name, head in zip(self.names, heads, strict=True):
            self.network.set_submodule(name, head)


class NextToken(View):
    """The layers of a network, whatever is on top of them, under a language model's head.

    Args:
        network: with a `backbone` of our language models; shared.
        head: of the next token; copied and frozen, where it was tied to the embedding too.
    """

    def __init__(self, network: Any, head: nn.Module):
        super().__init__(network)
        self.head = copy.deepcopy(head).requires_grad_(False).eval()

    def forward(self, tokens: Tensor, state: Any = None, **named: Any) -> tuple[Tensor, Any]:
        """As a language model's: logits (b, l, v) and the state."""
        network: Any = self.network
        features, state = network.backbone(network.backbone.embedding(tokens), state, **named)
        return of_tokens(self.head(features), network.config), state


@dataclass
class Remembering:
    """A task with terms against forgetting: its loss and, in training, their sum on top.

    The rest is the task's own.
    """

    task: Task
    terms: list[Term] = field(default_factory=list)

    @property
    def primary_metric(self) -> str:
        return self.task.primary_metric

    @property
    def higher_is_better(self) -> bool:
        return self.task.higher_is_better

    @property
    def states(self) -> dict:
        """The state that the task carries from step to step, if it does."""
        return getattr(self.task, "states", {})

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """The loss with the terms in training, and the task's outputs."""
        share: Any = 1.0
        if "totals" in batch:  # a piece of a step: the terms are means over rows
            rows, *totals = batch["totals"]
            share, batch = len(batch["labels"]) / rows, batch | {"totals": torch.stack(totals)}
        loss, outputs = loss_of(self.task, model, batch)
        if model.training:
            batch = {name: values for name, values in batch.items() if name != "totals"}
            for term in self.terms:
                loss = loss + share * term(model, batch)
        return loss, outputs

    def counts(self, model: nn.Module, batch: Batch) -> Tensor:
        """Rows, then what the task's loss is a mean over."""
        own = counts_of(self.task, model, batch)
        return torch.cat([own.new_tensor([len(batch["labels"])]), own])

    def collate(self, items: list[Any]) -> Batch:
        """As the task."""
        return self.task.collate(items)

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """As the task."""
        return self.task.outputs(model, batch)

    def count_correct(self, outputs: Tensor, labels: Tensor) -> tuple[Tensor | int, Tensor | int]:
        """As the task."""
        return self.task.count_correct(outputs, labels)

    def validation(self, outputs: Any, labels: Any) -> dict[str, float]:
        """As the task."""
        return self.task.validation(outputs, labels)


@dataclass
class Rehearsal:
    """Rows of the old task in every step: s / (1 - s) times their loss, for a share s of all rows.

    With the new rows' mean loss L and the old ones' L', training follows L + s / (1 - s) L', in proportion what a batch
    with that share of old rows would give. Which rows are drawn comes from torch's random numbers.

    view, task, part: the old task's; `part` serves batches by lists of indices.
    share: of the rows of a step, in (0, 1).
    """

    view: View
    task: Task
    part: Any
    share: float

    def __post_init__(self):
        if not 0 < self.share < 1:
            raise UserError(f"rehearsal.share must be above 0 and below 1, got {self.share}")

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        count = max(1, round(self.share / (1 - self.share) * len(batch["labels"])))
        old = drawn(self.part, count, batch["labels"].device)
        self.view.train(model.training)
        loss, _ = self.task.loss(self.view, old)
        return self.share / (1 - self.share) * loss


@dataclass
class Distillation:
    """Distribution matching: KL(frozen base || network) of the old head's predictions.

    Source: Li & Hoiem 2016, "Learning without Forgetting" (arXiv:1606.09282), with the temperature of Hinton et al.
    2015 (arXiv:1503.02531); on the new task's inputs no old data are needed.

    view, base: the old task's views of the network, and of the frozen base in evaluation mode.
    inputs: a batch -> the arguments of the views' forward, and a mask of the positions that count, or None.
    weight, temperature: of the term, which is multiplied by temperature^2.
    part: where it is given, as many of its rows are matched instead of the new task's inputs.
    """

    view: View
    base: View
    inputs: Inputs
    weight: float = 1.0
    temperature: float = 2.0
    part: Any = None

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        if self.part is not None:
            batch = drawn(self.part, len(batch["labels"]), batch["labels"].device)
        arguments, named, mask = self.inputs(batch)
        self.view.train(model.training)
        with torch.no_grad():
            wanted = _logits(self.base, arguments, named, mask)
        found = _logits(self.view, arguments, named, mask)
        # a vocabulary that has grown since has tokens that the base knows nothing of
        return self.weight * matching(wanted, found[:, : wanted.shape[1]], self.temperature)


def matching(wanted: Tensor, found: Tensor, temperature: float = 1.0) -> Tensor:
    """temperature^2 KL(softmax(wanted / t) || softmax(found / t)), the mean over rows (n, classes)."""
    p, q = (F.log_softmax(logits.float() / temperature, dim=-1) for logits in (wanted, found))
    return temperature**2 * F.kl_div(q, p, reduction="batchmean", log_target=True)


def _logits(view: View, arguments: tuple, named: dict, mask: Tensor | None) -> Tensor:
    found = view(*arguments, **named)
    logits = found[0] if isinstance(found, tuple) else found
    return logits.flatten(0, -2) if mask is None else logits[mask]


@dataclass
class EWC:
    """weight / 2 sum_i F_i (p_i - p*_i)^2: what mattered for the old task stays near where it was.

    Source: Kirkpatrick et al. 2017 (arXiv:1612.00796), eq. 3, with F divided by its mean over all parameters, so that
    the weight means the same for every network.

    fisher: the diagonal of the Fisher information by parameter name, see `fisher_diagonal`.
    anchor: the parameters p*, by name.
    """

    fisher: dict[str, Tensor]
    anchor: dict[str, Tensor]
    weight: float = 1.0

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        total = torch.zeros((), device=batch["labels"].device)
        for name, parameter in model.named_parameters():
            if name in self.fisher and parameter.requires_grad:
                total = total + (self.fisher[name] * (parameter - self.anchor[name]).square()).sum()
        return self.weight / 2 * total


def fisher_diagonal(view: View, batches: Iterable[Batch], inputs: Inputs, *, seed: int = 0) -> dict[str, Tensor]:
    """The diagonal Fisher information of the body on the old task, by names of the network's parameters, with mean 1.

    F_i = E[(d log p(y | x) / d p_i)^2] with y drawn from the network's own predictions. Squares are taken of the
    gradient of each batch's sum, which is right in expectation, since the gradients of drawn labels have mean zero.

    Args:
        batches: of the old task.
        inputs: as of `Distillation`.
        seed: of the labels, so that a resumed training has the same springs.
    """
    network, was = view.network, view.network.training
    found = {name: torch.zeros_like(p) for name, p in network.named_parameters()}
    network.eval()
    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(seed)
        for batch in batches:
            arguments, named, mask = inputs(batch)
            logits = _logits(view, arguments, named, mask).float()
            labels = torch.distributions.Categorical(logits=logits.detach()).sample()
            parameters = {name: p for name, p in network.named_parameters() if p.requires_grad}
            loss = F.cross_entropy(logits, labels, reduction="sum")
            gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
            for name, gradient in zip(parameters, gradients, strict=True):
                if gradient is not None:
                    found[name] += gradient.square()
    network.train(was)
    mean = sum(float(f.sum()) for f in found.values()) / max(sum(f.numel() for f in found.values()), 1)
    return {name: f / max(mean, 1e-30) for name, f in found.items()}


def drawn(part: Any, count: int, device: torch.device) -> Batch:
    """So many rows of a part, drawn by torch's random numbers, each independently of the others."""
    rows = torch.randint(len(part), (count,))
    return {name: tensor.to(device) for name, tensor in part.__getitems__(rows.tolist()).items()}

"""Time and memory of reading, of a training step and of writing, against the length of the sequence."""

import statistics
import time
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import set_seed

from ssmlab.core.device import ComputeConfig
from ssmlab.core.progress import Progress
from ssmlab.core.record import Record
from ssmlab.generation.prompt_state import CHUNK
from ssmlab.nn import Attention
from ssmlab.profiling import Call, count_parameters, peak_memory
from ssmlab.studies.scaling.recipe import ScalingData, ScalingRecipe
from ssmlab.tasks.language.experiment import build_language_model
from ssmlab.tasks.language.recipe import SequenceModel
from ssmlab.tasks.shared.experiment import Experiment, Records, compute_of
from ssmlab.tasks.shared.job import Job
from ssmlab.training.predict import autocast

QUICK = 2.0  # passes shorter than so many seconds are repeated
REPEATS = 3


def build(recipe: ScalingRecipe, data: Any, model: SequenceModel, seed: int) -> nn.Module:
    """A language model with initial weights, or with those of a folder."""
    set_seed(seed)
    return build_language_model(model, "", recipe.data.vocab)


def estimate(recipe: ScalingRecipe, data: Any, job: Job) -> float:
    """Seconds at most; a model that cannot be built is reported here."""
    build(recipe, data, job.model, job.seed)
    return recipe.data.most_seconds * (len(recipe.data.prefill) > 0)


def fit_job(recipe: ScalingRecipe, data: Any, job: Job, *, progress: Progress, **unused: Any) -> Records:
    """Every length of every kind, the shortest first; nothing is trained.

    Records have the class "length <tokens>"; n is the number of timed passes, 0 where the value was extrapolated.
    """
    network = build(recipe, data, job.model, job.seed)
    compute = compute_of(recipe, job.model)
    network.to(compute.device)
    job.folder.mkdir(parents=True, exist_ok=True)
    records = [Record(metric="parameters", value=count_parameters(network), unit="count")]
    config = recipe.data
    kinds = {"prefill": config.prefill, "training_step": config.training, "decoding": config.decoding}
    for kind, lengths in kinds.items():
        progress.start(f"{job.folder.name}: {kind.replace('_', ' ')}", len(lengths), unit="lengths")
        try:
            records += measure_lengths(network, config, kind, sorted(lengths), compute, progress)
        finally:
            progress.stop()
    return {None: records}


def measure_lengths(
    network: nn.Module, config: ScalingData, kind: str, lengths: list[int], compute: ComputeConfig, progress: Progress
) -> list[Record]:
    """The records of one kind of pass, measured, and extrapolated from where a pass would take too long."""
    measured: list[tuple[int, float, int | None]] = []
    passes: list[tuple[int, float]] = []  # of decoding those in which its prompt is read
    records, stopped = [], False
    for done, length in enumerate(lengths):
        stopped = stopped or extrapolate(passes, length, least=1.0) > config.most_seconds
        if stopped:
            records += _extrapolated(kind, length, measured)
        else:
            try:
                seconds, memory, reading = measure_length(network, config, kind, length, compute)
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
                    raise
                stopped = True  # longer ones do not fit either
                records += _extrapolated(kind, length, measured)
            else:
                middle = statistics.median(seconds)
                measured.append((length, middle, memory))
                passes.append((length, reading if kind == "decoding" else middle))
                place, spread = f"length {length}", (min(seconds), max(seconds)) if len(seconds) > 1 else None
                records.append(Record(metric=f"{kind}_seconds", value=middle, unit="seconds", class_=place,
                                      n=len(seconds), spread=spread))  # fmt: skip
                if memory is not None and kind != "decoding":
                    records.append(Record(metric=f"{kind}_memory", value=memory, unit="bytes", class_=place, n=1))
        progress.update(done + 1)
    return records


def measure_length(
    network: nn.Module, config: ScalingData, kind: str, length: int, compute: ComputeConfig
) -> tuple[list[float], int | None, float]:
    """Seconds of every timed pass (of decoding a token's), bytes of memory that it took at most, and what was needed
    before it: of decoding the reading of the prompt."""
    tokens = torch.randint(config.vocab, (1, length + 1), device=compute.device)
    state: Any = None

    def prefill():
        _state_after(network, tokens[:, :-1])

    def training_step():
        logits, _ = network.train()(tokens[:, :-1])
        F.cross_entropy(logits.float().flatten(0, 1), tokens[0, 1:]).backward()
        network.zero_grad(set_to_none=True)

    @torch.inference_mode()
    def decoding():
        after = state
        for _ in range(config.decoded):
            _, after = network(tokens[:, -1:], after)

    passes = {"prefill": prefill, "training_step": training_step, "decoding": decoding}
    count = config.decoded if kind == "decoding" else 1  # the parts into which the time of a pass falls
    with autocast(compute):
        begin = time.perf_counter()
        if kind == "decoding":
            state = _state_after(network, tokens[:, :-1])
        reading = time.perf_counter() - begin
        call = Call(passes[kind], 1, torch.device(compute.device))
        with peak_memory(compute.device) as peak:
            first = call.seconds()
        seconds = [first]
        if first < QUICK:  # the first one also prepares kernels
            seconds = [call.seconds() for _ in range(REPEATS)]
    network.zero_grad(set_to_none=True)
    return [value / count for value in seconds], peak.extra, reading


@torch.inference_mode()
def _state_after(network: nn.Module, tokens: torch.Tensor) -> tuple:
    """The states after a prompt, read in pieces as `model.read` does, so that memory stays what one piece takes; with
    attention at once, since its causal kernel wants all queries together."""
    piece = tokens.shape[1] if any(isinstance(m, Attention) for m in network.modules()) else CHUNK
    state: Any = None
    for part in tokens.split(piece, dim=1):
        _, state = network.eval()(part, state, last_only=True)
    return state


def _extrapolated(kind: str, length: int, measured: list[tuple[int, float, int | None]]) -> list[Record]:
    place = f"length {length}"
    seconds = extrapolate([(at, value) for at, value, _ in measured], length)
    records = [Record(metric=f"{kind}_seconds", value=seconds, unit="seconds", class_=place, n=0)]
    known = [(at, float(memory)) for at, _, memory in measured if memory]
    if known and kind != "decoding":
        memory = extrapolate(known, length)
        records.append(Record(metric=f"{kind}_memory", value=memory, unit="bytes", class_=place, n=0))
    return [record for record in records if record.value > 0]


def extrapolate(points: list[tuple[int, float]], length: int, least: float = 0.0) -> float:
    """The value at a longer length, by the power law through the last two points; one point is taken for linear.

    Args:
        points: (length, value), the shortest first; 0 without any.
        least: the smallest power. Short passes say nothing about long ones: they cost what a call costs.
    """
    if not points:
        return 0.0
    at, value = points[-1]
    if len(points) == 1:
        return value * length / at
    before, less = points[-2]
    power = float(np.log(value / less) / np.log(at / before)) if value > less > 0 else 0.0
    return float(value * (length / at) ** max(power, least))


EXPERIMENT = Experiment(build=build, estimate=estimate, fit_job=fit_job)

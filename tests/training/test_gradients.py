"""Gradients watched, written down, and what hardly has any frozen: by name, resumable, with what it saves."""

import numpy as np
import pytest
import torch
from torch import nn

from ssmlab.core.errors import UserError
from ssmlab.core.progress import Progress
from ssmlab.models import create_model
from ssmlab.tasks.classify.task import Classify
from ssmlab.training.gradient_norms import GradientNorms, freeze_parameters, norms, units_of
from ssmlab.training.gradients import FILE
from tiny import fit_tiny, network

TASK = Classify(classes=("a", "b", "c"), mean=(0.5,) * 3, std=(0.25,) * 3)


def fit(folder, **options):
    return fit_tiny(folder, TASK, **options)


class Listening(Progress):
    def __init__(self):
        self.said = []

    def say(self, text):
        self.said.append(text)


def test_units_are_blocks_or_parameters():
    model = create_model("vmamba_test", num_classes=3)
    assert list(units_of(model)) == [
        "patch_embed", "layers.0.blocks.0", "layers.0", "layers.1.blocks.0",
        "classifier",
    ]  # fmt: skip
    assert list(units_of(model, "parameter")) == [name for name, _ in model.named_parameters()]
    language = create_model("mamba_lm_test", vocab_size=9)
    blocks = [f"backbone.layers.{i}" for i in range(len(language.backbone.layers))]
    assert list(units_of(language)) == ["backbone", *blocks]
    assert sorted(name for unit in units_of(language).values() for name in unit) == sorted(
        name for name, _ in language.named_parameters()
    )
    with pytest.raises(UserError, match="unit must be layer or parameter, got 'stage'"):
        units_of(model, "stage")


def test_the_relative_norm_is_the_stated_one():
    model = nn.ModuleDict({"a": nn.Linear(3, 2), "b": nn.Linear(2, 2)})
    watch = GradientNorms(units_of(model))
    up = down = 0.0
    for step in (1, 2):
        for p in model.parameters():
            p.grad = torch.randn_like(p) * step
        found = dict(model.named_parameters())
        watch.add(
            *(dict(zip(found, norms(t), strict=True)) for t in ([p.grad for p in found.values()], found.values()))
        )
        up += sum(float(p.grad.double().square().sum()) for p in model["a"].parameters())
        down += sum(float(p.detach().double().square().sum()) for p in model["a"].parameters())
    assert watch.units()["a"] == pytest.approx((up / down) ** 0.5, rel=1e-6)
    assert watch.relative(["a.weight"]) != watch.relative(["a.bias"])


def watched(**relative):
    watch = GradientNorms({name: [name] for name in relative})
    watch.add(relative, dict.fromkeys(relative, 1.0))
    return watch


def test_the_quietest_below_a_threshold_within_a_share():
    watch, sizes = watched(a=4.0, b=1.0, c=2.0, d=3.0), {"a": 10, "b": 20, "c": 30, "d": 40}
    assert watch.quietest(sizes, 10.0, 0.5) == ["b", "c"]
    assert watch.quietest(sizes, 10.0, 0.49) == ["b"]
    assert watch.quietest(sizes, 0.5, 0.99) == ["b"]  # the median is 2.5
    assert watch.quietest(sizes, 0.1, 0.99) == []


def test_the_front_is_the_longest_that_learns_less_than_the_rest():
    assert watched(a=3.0, b=1.0, c=2.0, d=4.0).front(1.0, 0.9) == ["a", "b", "c"]
    assert watched(a=3.0, b=1.0, c=2.0, d=4.0).front(1.0, 0.5) == ["a", "b"]
    assert watched(a=3.0, b=1.0, c=2.0, d=4.0).front(1.3, 0.1) == ["a"]  # one at least, if it learns less
    assert watched(a=9.0, b=1.0, c=1.0, d=1.0).front(1.0, 0.9) == []
    assert watched(a=1.0, b=1.0, c=4.0, d=1.0).front(1.5, 0.9) == ["a", "b"]


def test_freezing_drops_moments_and_keeps_the_groups():
    model = network()
    optimizer = torch.optim.AdamW([{"params": [p]} for p in model.parameters()])
    model(torch.randn(4, 3, 8, 8)).sum().backward()
    optimizer.step()
    freeze_parameters(model, ["0.weight", "0.bias"], optimizer)
    assert [len(group["params"]) for group in optimizer.param_groups] == [0, 0, 1, 1, 1, 1]
    assert len(optimizer.state) == 4 and model[0].weight.grad is None
    before = [p.detach().clone() for p in model.parameters()]
    optimizer.zero_grad()
    model(torch.randn(4, 3, 8, 8)).square().sum().backward()
    optimizer.step()
    same = [torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)]
    assert same == [True, True, False, False, False, False]


def test_a_training_freezes_what_learns_least_and_says_what_it_saved(tmp_path):
    listening, start = Listening(), network()
    model, trained = fit(
        tmp_path, progress=listening, freeze_by_gradient={"steps": 4, "share": 0.6, "where": "anywhere", "threshold": 9}
    )
    frozen = {r.class_: r for r in trained.found if r.metric == "frozen"}
    assert set(frozen) and set(frozen) < {name for name, _ in model.named_parameters()}
    assert all(r.value > 0 and r.n == 4 and r.step == 4 for r in frozen.values())
    (line,) = [text for text in listening.said if "frozen after step 4" in text]
    assert all(name.split(".")[0] in line for name in frozen)
    for name, p in model.named_parameters():
        assert p.requires_grad == (name not in frozen)
        assert not torch.equal(p, dict(start.named_parameters())[name])  # the first steps trained everything
    found = {(r.metric, r.class_): r for r in trained.found}
    for phase in ("before freezing", "after freezing"):
        assert found["seconds_per_step", phase].value > 0
    before, after = (found["training_memory", f"{when} freezing"].value for when in ("before", "after"))
    assert after < before
    with np.load(tmp_path / FILE) as file:
        assert file["steps"].tolist() == [1, 2, 3, 4] and set(file["frozen"]) == set(frozen)
        assert np.isfinite(file["gradients"]).all() and file["weights"].shape == (4, len(file["names"]))


def test_frozen_parameters_stay_to_the_bit(tmp_path):
    config = {"freeze_by_gradient": {"steps": 2, "depth": 0.6, "threshold": 99}}
    short, trained = fit(tmp_path / "a", epochs=1, schedule="constant", **config)
    long, _ = fit(tmp_path / "b", epochs=3, schedule="constant", warmup=0.1 / 3, **config)
    frozen = [r.class_ for r in trained.found if r.metric == "frozen"]
    for (name, p), q in zip(short.named_parameters(), long.parameters(), strict=True):
        assert torch.equal(p, q) == (name in frozen), name


class Stop(Progress):
    """Ends a training at a step, as Ctrl-C does behind it."""

    def __init__(self, step):
        self.step = step

    def update(self, done, text=""):
        import os
        import signal

        if done == self.step:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(
    ("more", "stop"),
    [
        ({}, 2),  # before anything is frozen, in the step in which it is, and after
        ({}, 3),
        ({}, 8),
        ({"layer_decay": 0.7}, 3),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (({"layer_decay": 0.7}, 2), ({"layer_decay": 0.7}, 8))
        ),
        *(pytest.param({"ema": 0.9}, stop, marks=pytest.mark.slow) for stop in (2, 3, 8)),
    ],
)
def test_a_resumed_training_is_bit_equal_and_knows_what_is_frozen(tmp_path, more, stop):
    config = {"freeze_by_gradient": {"steps": 3, "depth": 0.6, "threshold": 99}, "watch_gradients": 5} | more
    name = {"name": "vmamba_test", "num_classes": 3, "image_size": 8}

    def model():
        torch.manual_seed(0)
        return create_model(**name) if more else network()

    whole, trained = fit(tmp_path / "whole", model=model(), **config)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "cut", model=model(), progress=Stop(stop), **config)
    again, resumed = fit(tmp_path / "cut", model=model(), resume=True, **config)
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=True))
    names = [[r.class_ for r in t.records if r.metric == "frozen"] for t in (trained, resumed)]
    assert names[0] == names[1] and names[0]
    with np.load(tmp_path / "whole" / FILE) as one, np.load(tmp_path / "cut" / FILE) as two:
        assert all(np.array_equal(one[key], two[key], equal_nan=key in ("gradients", "weights")) for key in one)


def test_watching_changes_nothing_and_writes_every_so_many_steps(tmp_path):
    plain, _ = fit(tmp_path / "plain")
    watched, trained = fit(tmp_path / "watched", watch_gradients=6)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), watched.parameters(), strict=True))
    assert trained.found == [] and not (tmp_path / "plain" / FILE).exists()
    with np.load(tmp_path / "watched" / FILE) as file:
        assert file["steps"].tolist() == [6, 12, 18]
        assert (file["gradients"] > 0).all()


def test_what_is_frozen_by_name_is_not_watched(tmp_path):
    model = network()
    for p in model[0].parameters():
        p.requires_grad = False
    _, trained = fit(
        tmp_path, model=model, freeze_by_gradient={"steps": 2, "unit": "parameter", "where": "anywhere", "share": 0.9}
    )
    names = {r.class_ for r in trained.found if r.metric == "frozen"}
    assert names and not names & {"0.weight", "0.bias"}


@pytest.mark.parametrize("where", ["front", "anywhere"])
def test_something_is_always_left_to_train(tmp_path, where):
    model, _ = fit(
        tmp_path, freeze_by_gradient={"steps": 2, "threshold": 1e6, "share": 0.999, "depth": 0.999, "where": where}
    )
    assert any(p.requires_grad for p in model.parameters())

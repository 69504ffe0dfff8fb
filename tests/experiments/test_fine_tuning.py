"""Averaged weights, frozen parts, learning rates by layer, mixing: that they do what they say, and resume."""

import copy
import json
import os
import pickle
import signal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ssmlab.core.errors import RecipeError, UserError
from ssmlab.core.progress import Progress
from ssmlab.core.record import read_records
from ssmlab.experiments.run import run_recipe
from ssmlab.models import create_model
from ssmlab.tasks.classify.recipe import TrainingConfig
from ssmlab.tasks.classify.task import Classify
from ssmlab.tasks.recipe import load_recipe
from ssmlab.tasks.shared.augment import Augment, Mix
from ssmlab.training.fit import SsmTrainer
from ssmlab.training.parameters import freeze, frozen_modules, layer_groups, optimizer_groups
from ssmlab.training.resume import newest_complete
from ssmlab.training.task import TaskModule
from tiny import fit_tiny, network, part, same, values

DIGITS = "classification/digits_resnet18_vs_hybrid"
SMALL = ["data.limit=64", "evaluation.samples=3", "evaluation.throughput_batch=4", "evaluation.throughput_repeats=1"]


def task(**options):
    return Classify(**{"classes": ("a", "b", "c"), "mean": (0.5,) * 3, "std": (0.25,) * 3} | options)


def fit(folder, *, how=None, **options):
    return fit_tiny(folder, how or task(), **options)


class InterruptAt(Progress):
    def __init__(self, step):
        self.step = step

    def update(self, done, note=""):
        if done == self.step:
            os.kill(os.getpid(), signal.SIGINT)


class Weights(Progress):
    """A copy of the model's state after every step."""

    def __init__(self, model):
        self.model, self.seen = model, []

    def update(self, done, note=""):
        self.seen.append(copy.deepcopy(self.model.state_dict()))


@pytest.mark.parametrize(("warmup", "decay"), [(True, 0.9), (True, 0.2), (False, 0.9)])
def test_the_average_is_what_is_kept(tmp_path, warmup, decay):
    model = network()
    steps = Weights(model)
    _, trained = fit(tmp_path, model=model, progress=steps, ema=decay, ema_warmup=warmup)
    average = {name: tensor.double() for name, tensor in steps.seen[0].items()}
    for t, state in enumerate(steps.seen[1:], start=2):
        share = min(decay, 1 - t ** (-2 / 3)) if warmup else decay
        average = {name: share * value + (1 - share) * state[name].double() for name, value in average.items()}
    kept = model.state_dict()
    for name, value in average.items():
        if kept[name].is_floating_point():
            assert torch.allclose(kept[name].double(), value, atol=1e-5), name
    assert kept["1.num_batches_tracked"] == 18 == len(steps.seen)
    _, logits = task().loss(model.eval(), part(12, 1).__getitems__(list(range(12))))
    accuracy = (logits.argmax(1) == part(12, 1).arrays["labels"]).float().mean().item()
    assert values(trained, "eval_accuracy")[-1] == pytest.approx(accuracy), "the average is what is evaluated"


def test_the_average_does_not_change_the_training(tmp_path):
    plain, averaged = network(), network()
    a, b = Weights(plain), Weights(averaged)
    fit(tmp_path / "a", model=plain, progress=a)
    fit(tmp_path / "b", model=averaged, progress=b, ema=0.9)
    assert all(torch.equal(x[key], y[key]) for x, y in zip(a.seen, b.seen) for key in x)
    assert not same(plain, averaged)


ALL = {"ema": 0.95, "mixup": 0.4, "cutmix": 1.0, "label_smoothing": 0.1, "weight_decay": 0.1}
AUGMENT = Augment(flip="both", auto_augment="rand-m5-mstd0.5", random_erasing=0.3)


@pytest.mark.parametrize("keep", ["last", "best"])
@pytest.mark.parametrize("step", [3, 6, 17])
def test_interrupted_and_resumed_is_bit_equal_with_everything_on(tmp_path, step, keep):
    how = task(augment=AUGMENT, mix=Mix(0.4, 1.0))
    whole, log = fit(tmp_path / "whole", how=how, keep=keep, **ALL)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "cut", how=how, keep=keep, progress=InterruptAt(step), **ALL)
    checkpoint = newest_complete(tmp_path / "cut" / "checkpoints")
    assert checkpoint.name == f"checkpoint-{step}" and (checkpoint / "average.safetensors").is_file()
    resumed, resumed_log = fit(tmp_path / "cut", how=how, keep=keep, resume=True, model=network(seed=9), **ALL)
    assert same(whole, resumed) and log.epoch == resumed_log.epoch
    assert values(log, "eval_loss") == values(resumed_log, "eval_loss")


def test_the_best_epoch_is_that_of_the_average(tmp_path):
    model, trained = fit(tmp_path, keep="best", epochs=6, learning_rate=0.1, ema=0.8)
    epochs = list(zip(values(trained, "eval_accuracy"), values(trained, "eval_loss")))
    best = max(epochs, key=lambda epoch: (epoch[0], -epoch[1]))  # of equal accuracies that of the lower loss
    assert trained.epoch == 1 + epochs.index(best)
    _, logits = task().loss(model.eval(), part(12, 1).__getitems__(list(range(12))))
    assert (logits.argmax(1) == part(12, 1).arrays["labels"]).float().mean().item() == pytest.approx(best[0])


def test_a_linear_probe_trains_the_classifier_only(tmp_path):
    before = create_model("timm/test_resnet", num_classes=3, image_size=None)
    model = copy.deepcopy(before)
    freeze(model, ["backbone"])
    assert [name for name, p in model.named_parameters() if p.requires_grad] == ["fc.weight", "fc.bias"]
    fit(tmp_path, model=model, epochs=1)
    changed = [key for key, value in model.state_dict().items() if not torch.equal(value, before.state_dict()[key])]
    assert changed == ["fc.weight", "fc.bias"], "the statistics of frozen batch norms stay as they are"


def test_patterns_and_our_own_head():
    model = create_model("resnet_mamba_test", num_classes=3, image_size=32)
    freeze(model, ["backbone"])
    left = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert left == {"head"}, "with the hidden layer, which has no trained weights either"
    some = create_model("resnet_mamba_test", num_classes=3, image_size=32)
    freeze(some, ["layers", "*.bias"])
    frozen = [name for name, p in some.named_parameters() if not p.requires_grad]
    assert all(name.startswith("layers.") or name.endswith(".bias") for name in frozen) and "head.hidden.bias" in frozen
    module = TaskModule(some, task()).train()
    assert frozen_modules(some) and not some.layers.training and some.training and some.head.hidden.training
    assert not any(block.training for block in some.layers.modules()) and module.training
    with pytest.raises(UserError, match=r"resnet_mamba_test has no parameter 'stem'; its parts are backbone, .*, head"):
        freeze(some, ["stem"])
    with pytest.raises(UserError, match=r"training.freeze=\['\*'\] leaves nothing of resnet_mamba_test to train"):
        freeze(some, ["*"])
    with pytest.raises(UserError, match="Sequential has no parameter 'backbone'"):
        freeze(network(), ["backbone"])


def test_learning_rates_fall_from_layer_to_layer():
    model = create_model("timm/test_vit", num_classes=3, image_size=None)
    groups = layer_groups(model, 1.0, 0.05, 0.5)
    rate = {id(p): group["lr"] for group in groups for p in group["params"]}
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert rate.keys() == {id(p) for p in model.parameters()}
    rates = {name: rate[id(p)] for name, p in model.named_parameters()}
    depth = len(model.blocks)
    assert rates["head.weight"] == 1.0 and rates["patch_embed.proj.weight"] == 0.5 ** (depth + 1)
    assert [rates[f"blocks.{i}.attn.qkv.weight"] for i in range(depth)] == [0.5 ** (depth - i) for i in range(depth)]
    assert decay[id(model.pos_embed)] == decay[id(model.head.bias)] == 0 and decay[id(model.head.weight)] == 0.05
    frozen = create_model("timm/test_vit", num_classes=3, image_size=None)
    freeze(frozen, ["blocks"])
    assert sum(len(group["params"]) for group in layer_groups(frozen, 1.0, 0.05, 0.5)) == sum(
        p.requires_grad for p in frozen.parameters()
    )
    with pytest.raises(UserError, match=r"Sequential has no group_matcher\(\), as timm's models have; leave it at 1.0"):
        layer_groups(torch.nn.Sequential(torch.nn.Linear(2, 2)), 1.0, 0.05, 0.5)


def test_learning_rates_of_the_hybrids_fall_from_the_head_to_the_stem():
    model = create_model("resnet_mamba_test", num_classes=3, image_size=64, scales=2, depth=2)
    rate = {id(p): group["lr"] for group in layer_groups(model, 1.0, 0.05, 0.5) for p in group["params"]}
    rates = {name: rate[id(p)] for name, p in model.named_parameters()}
    order = ["head.classifier.weight", "layers.1.norm.weight", "layers.0.norm.weight"]
    order += [f"backbone.layer{i}.0.conv1.weight" for i in (4, 3, 2, 1)] + ["backbone.conv1.0.weight"]
    assert [rates[name] for name in order] == [0.5**i for i in range(len(order))]
    assert rates["level_proj.0.weight"] == rates["layers.0.norm.weight"] and rates["backbone.bn1.weight"] == 0.5**7
    plain = create_model("resnet18", num_classes=3, image_size=64, backbone="convnext_atto")
    assert len({group["lr"] for group in layer_groups(plain, 1.0, 0.05, 0.5)}) == 14  # stem, 12 blocks, head


def test_the_schedule_keeps_the_ratios_of_the_layers(tmp_path, monkeypatch):
    seen = []
    step = torch.optim.AdamW.step

    def watch(self, *args, **kwargs):
        seen.append([group["lr"] for group in self.param_groups])
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", watch)
    model = create_model("timm/test_resnet", num_classes=3, image_size=None)
    _, trained = fit(tmp_path, model=model, epochs=2, layer_decay=0.7)
    ratios = [[rate / rates[0] for rate in rates] for rates in seen if rates[0]]
    config = TrainingConfig(learning_rate=1e-2, layer_decay=0.7)
    expected = [group["lr"] / 1e-2 for group in optimizer_groups(model, config)]
    assert len(set(expected)) > 3 and max(expected) == expected[0] == 1.0
    assert all(row == pytest.approx(expected) for row in ratios) and len(ratios) >= 11
    assert max(values(trained, "learning_rate")) == pytest.approx(1e-2, rel=0.1), "the log shows the classifier's rate"


def test_what_the_model_spares_is_spared_in_training(tmp_path):
    """The Trainer sees the network inside a module of its own, with longer names."""
    model = create_model("resnet_mamba_test", num_classes=3, image_size=32)
    names = SsmTrainer.get_decay_parameter_names(None, TaskModule(model, task()))
    assert "network.head.hidden.weight" in names and set(names) <= {f"network.{n}" for n, _ in model.named_parameters()}
    assert not any(name.endswith((".A_log", ".D", ".bias")) for name in names)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("training.layer_decay=0", "training.layer_decay should be greater than 0"),
        ("training.ema=1", "training.ema should be less than 1"),
        ("training.mixup=-1", "training.mixup should be greater than or equal to 0"),
        ("training.augment.auto_augment=rnd-m9", "training.augment.auto_augment: 'rnd-m9' is no policy of timm"),
        ("training.augment.erasing=black", "training.augment.erasing should be 'const', 'rand' or 'pixel'"),
        ("training.freeze=3", "training.freeze should be a valid list"),
    ],
)
def test_mistakes_in_the_recipe(change, message):
    with pytest.raises(RecipeError) as caught:
        load_recipe(DIGITS, [change])
    assert message in str(caught.value)


def test_freeze_may_be_one_name_or_several():
    assert load_recipe(DIGITS, ["training.freeze=backbone"]).training.freeze == ["backbone"]
    assert load_recipe(DIGITS, ['training.freeze=["a", "b.*"]']).training.freeze == ["a", "b.*"]
    assert load_recipe(DIGITS, ['training.freeze=""']).training.freeze == []


def test_mistakes_that_only_the_model_shows_are_told_before_training(tmp_path):
    with pytest.raises(UserError, match="resnet_test has no parameter 'stem'"):
        run_recipe(load_recipe(DIGITS, [*SMALL, "training.freeze=stem"], smoke=True), output=tmp_path)
    assert not any(tmp_path.iterdir())


@pytest.fixture
def cifar100(tmp_path):
    """Random images in the files of CIFAR-100."""
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    for file, n in (("train", 400), ("test", 200)):
        fine = [i % 100 for i in range(n)]
        pixels = np.random.default_rng(n).integers(0, 256, (n, 3072), dtype=np.uint8)
        table = {"data": pixels, "fine_labels": fine, "coarse_labels": [i // 5 for i in fine]}
        (folder / file).write_bytes(pickle.dumps(table, 2))
    meta = {"fine_label_names": [f"f{i}" for i in range(100)], "coarse_label_names": [f"c{i}" for i in range(20)]}
    (folder / "meta").write_bytes(pickle.dumps(meta, 2))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("labels", ["fine", "coarse"])
def test_cifar100_through_a_whole_run(cifar100, tmp_path, labels, monkeypatch):
    monkeypatch.setattr("ssmlab.reports.html.write_report", lambda folder, _: folder)
    recipe = tmp_path / "cifar.toml"
    recipe.write_text(
        f'seeds = [0, 1]\ndevice = "cpu"\n[data]\npath = "{cifar100}"\nlabels = "{labels}"\n'
        '[training]\nepochs = 1\nbatch_size = 32\nema = 0.99\nmixup = 0.8\ncutmix = 1.0\nclass_weights = "balanced"\n'
        'label_smoothing = 0.1\n[training.augment]\nauto_augment = "rand-m9-mstd0.5-inc1"\nrandom_erasing = 0.25\n'
        '[[models]]\nname = "resnet_test"\n[evaluation]\nthroughput_repeats = 1\nsamples = 2\n'
    )
    folder = run_recipe(load_recipe(recipe), output=tmp_path / "runs")
    run = json.loads((folder / "run.json").read_text())
    count = {"fine": 100, "coarse": 20}[labels]
    assert run["data"]["format"] == "cifar100" and len(run["data"]["classes"]) == count
    assert run["data"]["notes"][0].startswith(f"{labels} labels, {count} classes")
    assert f'labels = "{labels}"' in (folder / "recipe.toml").read_text()
    accuracies = [r for r in read_records(folder / "records.jsonl") if (r.metric, r.split) == ("accuracy", "test")]
    assert [(r.seed, r.n) for r in accuracies] == [(0, 200), (1, 200)]
    confusion = [r for r in read_records(folder / "records.jsonl") if (r.metric, r.split) == ("confusion", "test")]
    assert sum(r.value for r in confusion) == 2 * 200 and len(confusion) <= 2 * max(200, 20 * 20)
    weights = [load_file(folder / "models" / f"resnet_test_seed{seed}" / "model.safetensors") for seed in (0, 1)]
    assert all(len(state["head.classifier.bias"]) == count for state in weights)
    assert not torch.equal(weights[0]["head.classifier.weight"], weights[1]["head.classifier.weight"])

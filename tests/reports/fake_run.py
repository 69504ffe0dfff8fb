"""A believable run folder without a training: `python tests/reports/fake_run.py FOLDER [digits|tissue|many]`."""

import csv
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ssmlab.core.files import write_records
from ssmlab.core.record import Record
from ssmlab.core.statistics import differences, statistics_of, wilson

RECIPE = """\
# ssmlab run classification/digits    2 CPU cores, about 2 minutes
name = "digits"
task = "classify"
seeds = [0]

[data]
path = "digits"
image_size = 32

[training]
epochs = 12
batch_size = 64
optimizer = "adamw"
learning_rate = 1e-3
"""


@dataclass
class Fake:
    """What the invented run is about; the defaults are two models on digits."""

    name: str = "digits_resnet18_vs_hybrid"
    description: str = "ResNet-18 against ResNet-18 + Mamba on handwritten digits"
    classes: tuple[str, ...] = tuple("0123456789")
    counts: tuple[int, int, int] = (1294, 143, 360)
    # label, title, share of right answers, tokens, parameters, MAC, scan MAC, images/s
    models: tuple[tuple, ...] = (
        ("resnet18", "ResNet-18", 0.955, None, 11_310_000, 0.583e9, 0, 1190),
        ("resnet18_mamba", "ResNet-18 + Mamba", 0.984, 16, 12_412_000, 0.611e9, 1.9e6, 1040),
    )
    seeds: tuple[int, ...] = (0,)
    unfinished: bool = False
    probabilities: bool = True
    recorded_difference: bool = True
    extra: dict = field(default_factory=dict)
    folders: tuple[str, ...] = ()  # where a label is no name of a folder


TISSUE = Fake(
    name="mhist_resnet18_vs_hybrid",
    description="ResNet-18 against ResNet-18 + Mamba on colorectal polyps (MHIST)",
    classes=("HP", "SSA"),
    counts=(1958, 217, 977),
    models=(
        ("resnet18", "ResNet-18", 0.842, None, 11_310_000, 9.5e9, 0, 88),
        ("resnet18_mamba", "ResNet-18 + Mamba", 0.85, 196, 12_412_000, 9.9e9, 24e6, 79),
    ),
)


def make_run(folder: Path, fake: Fake | None = None, images: int = 12) -> Path:
    """Write the folder of a run; returns it."""
    fake = fake or Fake()
    folder = Path(folder)
    folder.mkdir(parents=True)
    (folder / "recipe.toml").write_text(RECIPE)
    (folder / "run.json").write_text(json.dumps(_info(fake) | fake.extra))
    records, outcomes = [], {}
    for seed in fake.seeds:
        rng = np.random.default_rng(seed)
        labels = rng.integers(len(fake.classes), size=fake.counts[2])
        difficulty = rng.random(fake.counts[2])
        for i, model in enumerate(fake.models):
            records += _curves(fake, model, seed, rng)
            if fake.unfinished and i == len(fake.models) - 1:
                continue
            scores = _scores(fake, model, labels, difficulty, rng)
            outcomes[model[0], seed] = scores.argmax(1)
            _write_predictions(folder, fake, model[0], seed, labels, scores)
            records += _finals(fake, model, seed, labels, scores) + _costs(fake, model, seed, rng)
        if len(fake.models) > 1 and not fake.unfinished and fake.recorded_difference:
            a, b = (outcomes[model[0], seed] == labels for model in fake.models[:2])
            records += _difference(fake, a, b, seed)
    write_records(folder / "records.jsonl", records)
    if images:
        _write_samples(
            folder / "samples",
            fake,
            labels,
            {m: o for (m, s), o in outcomes.items() if s == fake.seeds[-1]},
            images,
        )
    return folder


def _info(fake: Fake) -> dict:
    return {
        "name": fake.name,
        "task": "classify",
        "description": fake.description,
        "data": {
            "format": "digits" if fake.classes[0] == "0" else "mhist",
            "path": "digits",
            "counts": dict(zip(("train", "val", "test"), fake.counts)),
            "classes": fake.classes,
            "split_hash": "b7c1f0a2d94e",
            "image_size": 32,
            "notes": ["no validation part: 10 % of train was set aside, stratified"],
        },
        "models": [
            {
                "name": m[0],
                "label": m[0],
                "title": m[1],
                "tokens": m[3],
                "parameters": m[4],
                "folder": f"models/{folder}",
            }
            for m, folder in zip(fake.models, _folders(fake))
        ],
        "command": f"ssmlab run classification/{fake.name}",
        "commit": "3f2a9c1",
        "machine": "AMD EPYC 9454P, 2 threads, 23 GiB, no GPU",
        "versions": "ssmlab 0.1.0, python 3.11.2, torch 2.15.0, timm 1.0.31, transformers 5.23.0",
        "started": "2025-11-21T02:44:10+00:00",
        "finished": None if fake.unfinished else "2025-11-21T02:47:31+00:00",
        "seeds": list(fake.seeds),
    }


def _record(fake: Fake, label: str, seed: int, metric: str, value: float, **more) -> Record:
    return Record(
        run=fake.name, task="classify", model=label, seed=seed, metric=metric, value=float(value), commit="3f2a9c1",
        machine="AMD EPYC 9454P", versions="torch 2.15.0", time="2025-11-21T02:47:31+00:00", **more,
    )  # fmt: skip


def _curves(fake: Fake, model: tuple, seed: int, rng) -> list[Record]:
    label, end = model[0], model[2]
    per_epoch, epochs = 21, 12
    reached = epochs * per_epoch // (2 if fake.unfinished and model is fake.models[-1] else 1)
    records = []
    for step in range(7, reached + 1, 7):
        epoch = step / per_epoch
        loss = 0.09 + 2.2 * np.exp(-epoch / 1.7) * (1 if model[3] is None else 0.85) + 0.02 * rng.standard_normal()
        records.append(_record(fake, label, seed, "loss", loss, split="train", step=step, unit="nats"))
        records.append(_record(fake, label, seed, "epoch", epoch, split="train", step=step))
        accuracy = min(1, 1 - 0.9 * np.exp(-epoch / 1.2) + 0.008 * rng.standard_normal())
        records.append(_record(fake, label, seed, "accuracy", accuracy, split="train", step=step, unit="fraction"))
        if step % per_epoch == 0:
            value = end - 0.85 * np.exp(-epoch / 1.3) + 0.01 * rng.standard_normal()
            records.append(
                _record(fake, label, seed, "accuracy", min(value, 1), split="val", step=step, unit="fraction")
            )
            loss = 0.16 + (1 - end) * 3 + 2.1 * np.exp(-epoch / 1.6) + 0.02 * rng.standard_normal()
            records.append(_record(fake, label, seed, "loss", loss, split="val", step=step, unit="nats"))
    return records


def _scores(fake: Fake, model: tuple, labels: np.ndarray, difficulty: np.ndarray, rng) -> np.ndarray:
    """Probabilities that are right about as often as asked; images hard for one model are hard for the other."""
    n, k = len(labels), len(fake.classes)
    hardness = 0.8 * difficulty + 0.2 * rng.random(n)
    hard = hardness > np.quantile(hardness, min(model[2] + rng.normal(0, 0.004 * (len(fake.seeds) > 1)), 1))
    logits = rng.normal(0, 0.8, (n, k))
    logits[np.arange(n), labels] += np.where(hard, -0.5, 5.5 + rng.normal(0, 1.3, n).clip(-1.5))
    # Confusable neighbours: 8 is taken for 3 rather than for any digit.
    logits[np.arange(n), (labels * 3 + 1) % k] += np.where(hard & ((labels * 3 + 1) % k != labels), 2.0, 0.0)
    exponentials = np.exp(logits)
    return exponentials / exponentials.sum(1, keepdims=True)


def _folders(fake: Fake) -> tuple[str, ...]:
    return fake.folders or tuple(model[0] for model in fake.models)


def _folder(fake: Fake, label: str, seed: int) -> str:
    name = dict(zip((model[0] for model in fake.models), _folders(fake)))[label]
    return name if len(fake.seeds) == 1 else f"{name}_seed{seed}"


def _write_predictions(folder, fake, label, seed, labels, scores) -> None:
    path = folder / "models" / _folder(fake, label, seed) / "predictions.csv"
    path.parent.mkdir(parents=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        columns = [f"p:{name}" for name in fake.classes] if fake.probabilities else []
        writer.writerow(["id", "label", "predicted", "correct", *columns])
        for i, (true, row) in enumerate(zip(labels, scores)):
            said = int(row.argmax())
            numbers = [f"{p:.6f}" for p in row] if fake.probabilities else []
            writer.writerow([f"test/{i:04d}.png", fake.classes[true], fake.classes[said], int(true == said), *numbers])


def _finals(fake, model, seed, labels, scores) -> list[Record]:
    label, said, k, n = model[0], scores.argmax(1), len(fake.classes), len(labels)
    matrix = np.zeros((k, k), dtype=int)
    np.add.at(matrix, (labels, said), 1)
    right, support = np.diag(matrix), matrix.sum(1)
    recall, precision = right / support.clip(1), right / matrix.sum(0).clip(1)
    f1 = 2 * precision * recall / (precision + recall).clip(1e-9)

    def final(metric, value, class_=None, **more):
        return _record(fake, label, seed, metric, value, split="test", class_=class_, n=n, **more)

    loss = -np.log(scores[np.arange(n), labels]).mean()
    accuracy = right.sum() / n
    records = [
        final("accuracy", accuracy, unit="fraction", spread=wilson(int(right.sum()), n)),
        final("loss", loss, unit="nats"),
        final("balanced_accuracy", recall.mean(), unit="fraction"),
        final(
            "roc_auc",
            np.mean([_auc(labels == c, scores[:, c]) for c in ([1] if k == 2 else range(k))]),
            unit="fraction",
        ),
    ]
    for metric, values in (("precision", precision), ("recall", recall), ("f1", f1)):
        records += [final(metric, v, c, unit="fraction") for v, c in zip(values, fake.classes)]
        records.append(final(metric, values.mean(), "macro", unit="fraction"))
        records.append(final(metric, (values * support).sum() / n, "weighted", unit="fraction"))
    records += [final("support", v, c, unit="count") for v, c in zip(support, fake.classes)]
    if k == 2:
        records += [
            final("sensitivity", recall[1], fake.classes[1]),
            final("specificity", recall[0], fake.classes[1]),
        ]
    pairs = [(i, j) for i in range(k) for j in range(k) if matrix[i, j]]
    return records + [
        final("confusion", matrix[i, j], f"{fake.classes[i]} -> {fake.classes[j]}", unit="count") for i, j in pairs
    ]


def _auc(truth: np.ndarray, score: np.ndarray) -> float:
    """The share of (right, wrong) pairs in the right order."""
    return (score[truth][:, None] > score[~truth]).mean() if truth.any() and not truth.all() else 0.5


def _costs(fake, model, seed, rng) -> list[Record]:
    label, _, _, tokens, parameters, macs, scan, rate = model
    noise = 1 + 0.02 * rng.standard_normal()
    costs = [
        ("train_seconds", 84 * 1100 / rate * noise, "seconds"),
        ("test_seconds", 400 / rate * noise, "seconds"),
        ("parameters", parameters, "count"),
        ("macs", macs, "multiply-accumulates"),
        ("scan_macs", scan, "multiply-accumulates"),
        ("flops", 2 * macs, "operations"),
        ("scan_flops", 2 * scan, "operations"),
        ("cold_seconds", 0.21 * noise, "seconds"),
        ("peak_memory", 612e6 * noise + 8 * parameters, "bytes"),
    ] + ([("tokens", tokens, "tokens")] if tokens else [])
    records = [_record(fake, label, seed, metric, value, unit=unit) for metric, value, unit in costs]
    spread = (rate * 0.95 * noise, rate * 1.03 * noise)
    return [
        *records,
        _record(fake, label, seed, "images_per_second", rate * noise, unit="images/s", n=10, spread=spread),
    ]


def _difference(fake, a, b, seed) -> list[Record]:
    first, second = fake.models[0][0], fake.models[1][0]
    (found,) = differences({second: statistics_of(b), first: statistics_of(a)}).values()
    value, *spread = found.interval
    name, metric = f"{first} - {second}", "accuracy_difference"
    ps = ((found.p, None), (found.corrected, "Holm"))
    return [
        _record(fake, name, seed, metric, value, split="test", n=len(a), spread=tuple(spread)),
        *(_record(fake, name, seed, f"p_of_{metric}", p, split="test", class_=c, unit=found.test) for p, c in ps),
    ]


def _write_samples(folder: Path, fake: Fake, labels, outcomes: dict, most: int) -> None:
    folder.mkdir()
    rng = np.random.default_rng(1)
    wrong = sum((said != labels).astype(int) for said in outcomes.values())
    rows = []
    for n, i in enumerate(np.argsort(-wrong, kind="stable")[:most]):
        image = Image.new("L", (32, 32), 0)
        font = ImageFont.load_default(size=22 if len(fake.classes[labels[i]]) == 1 else 12)
        ImageDraw.Draw(image).text((4 + rng.integers(8), 2), fake.classes[labels[i]][:3], fill=255, font=font)
        Image.fromarray(np.asarray(image) // 16 * 16).save(folder / f"{n}.png")
        said = {label: [fake.classes[o[i]], float(rng.uniform(0.5, 0.99))] for label, o in outcomes.items()}
        rows.append(
            {
                "file": f"{n}.png",
                "id": f"test/{i:04d}.png",
                "label": fake.classes[labels[i]],
                "predictions": said,
            }
        )
    (folder / "samples.json").write_text(json.dumps(rows))


if __name__ == "__main__":
    kinds = {
        "digits": Fake(),
        "tissue": TISSUE,
        "seeds": Fake(seeds=(0, 1, 2)),
        "half": Fake(unfinished=True),
    }
    kinds["hundred"] = Fake(classes=tuple(f"class {i}" for i in range(100)), counts=(45000, 5000, 10000))
    extra = (
        ("vit", "ViT-B/16", 0.97, 197, 86e6, 17e9, 0, 210),
        ("swin", "Swin-B", 0.975, None, 88e6, 15e9, 0, 188),
    )
    kinds["five"] = Fake(
        models=Fake.models + extra + (("vmamba_base_s1l15", "VMamba-B", 0.98, 196, 89e6, 15.4e9, 5e8, 95),)
    )
    kinds["six"] = Fake(
        classes=TISSUE.classes,
        counts=TISSUE.counts,
        models=(
            *kinds["five"].models,
            ("medmamba_tiny_distilled", "MedMamba-T, distilled", 0.96, 49, 14e6, 2e9, 3e7, 300),
        ),
    )
    evil = (
        "<script>alert(1)</script>",
        'b & "c" -> d',
        "a very long class name of a tissue $x$ with 日本語 in it",
    )
    kinds["evil"] = Fake(name="<script>x", description="<img src=x onerror=alert(1)>" * 6, classes=evil, seeds=(3, 4))
    make_run(Path(sys.argv[1]), kinds[sys.argv[2] if len(sys.argv) > 2 else "digits"])

"""A small network and images that it learns in a second, for tests of training."""

import torch
from torch import nn

from ssmlab.core.device import ComputeConfig
from ssmlab.tasks.classify.recipe import TrainingConfig
from ssmlab.training import fit as training
from ssmlab.training.dataset import BatchedDataset

CPU = ComputeConfig(device="cpu")


def network(seed=0):
    torch.manual_seed(seed)
    body = [nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2), nn.Linear(72, 3)]
    return nn.Sequential(*body)


def part(n, seed):
    """Three classes of images that differ in brightness."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 3
    noise = torch.randint(0, 90, (n, 3, 8, 8), generator=random)
    return BatchedDataset({"images": (noise + 80 * labels[:, None, None, None]).to(torch.uint8), "labels": labels})


def fit_tiny(folder, task, *, model=None, progress=None, resume=False, **config):
    """The model and what training left."""
    model = network() if model is None else model
    settings = TrainingConfig(**{"epochs": 3, "batch_size": 8, "learning_rate": 1e-2} | config)
    result = training.fit(
        model, task, part(50, 0), part(12, 1), settings,
        folder=folder, label="tiny", seed=3, device=CPU, progress=progress, resume=resume,
    )  # fmt: skip
    return model, result


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def values(trained, key):
    return [row[key] for row in trained.history if key in row]

"""A step in pieces in one process, and what several processes do to a network, without starting any."""

import json
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.data import IterableDataset

from ssmlab import tasks
from ssmlab.core.errors import UserError
from ssmlab.core.world import World
from ssmlab.data.stream.shuffle import Stream
from ssmlab.tasks.language.task import Language
from ssmlab.tasks.table import TASKS
from ssmlab.tasks.vision_language.task import VisionLanguage
from ssmlab.training.config import FitConfig
from ssmlab.training.dataset import StreamDataset
from ssmlab.training.distributed import Share, in_order, rows_of
from ssmlab.training.parallel import Parallel, layers_of, synchronise_norms
from tiny import network, part

CPU = torch.device("cpu")


def test_batch_norms_are_put_back():
    model = network()
    own = synchronise_norms(model)
    assert list(own) == ["1"] and isinstance(model[1], nn.SyncBatchNorm)
    model[1].running_mean.add_(2)
    assert torch.equal(own["1"].running_mean, model[1].running_mean) and own["1"].weight is model[1].weight


def test_layers_are_those_of_the_outermost_lists():
    inner = nn.ModuleList([nn.Sequential(nn.ModuleList([nn.Linear(1, 1)])), nn.ReLU()])
    assert layers_of(nn.Sequential(nn.Linear(1, 1), inner)) == [inner[0]]


@pytest.mark.parametrize("indices", [[4, 1, 3, 0, 2], [7]])
def test_shares_of_a_batch_are_the_batch(indices):
    data = part(9, 0)
    shares = [Share(data, None, World(rank, 3)).__getitems__(indices) for rank in range(3)]
    assert sum(int(one["share"][0]) for one in shares) == len(indices) == int(shares[0]["share"][1])
    rows = [one["images"][: int(one["share"][0])].numpy() for one in shares]
    assert (in_order([[one] for one in rows]) == data.__getitems__(indices)["images"].numpy()).all()


NUMBERS = SimpleNamespace(collate=lambda items: {"labels": torch.tensor([item["labels"] for item in items])})


@pytest.mark.parametrize("workers", [0, 2])
def test_processes_draw_disjoint_parts_of_one_stream(workers):
    """Together the batches of one process, from the same position; each prepares its own rows and no others."""
    prepared: list[list[int]] = [[], [], [], []]

    class Shards(list):
        read = list.__getitem__

    def opened(reader):
        def prepare(number):
            prepared[reader].append(number)
            return {"labels": number}

        shards = Shards(list(range(first, first + 12)) for first in range(0, 60, 12))
        stream = StreamDataset(Stream(shards, buffer=9, prepare=prepare, workers=workers), 20, 7)
        stream.begin_training(3)
        return stream

    one, many = opened(3), [opened(rank) for rank in range(3)]
    shares, own = [Share(data, NUMBERS, World(rank, 3)) for rank, data in enumerate(many)], 0
    for epoch in range(4):
        for data in (one, *many):
            data.begin_epoch(epoch)
        for indices in ([0, 1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11, 12, 13], [14]):
            wanted = [item["labels"] for item in one.__getitems__(indices)]
            found = [share.__getitems__(indices) for share in shares]
            rows = [batch["labels"][: int(batch["share"][0])].tolist() for batch in found]
            assert [number for part in rows for number in part] == wanted and {
                int(batch["share"][1]) for batch in found
            } == {len(indices)}
            own += len(rows[0])
        places = [json.dumps(data.position(epoch * 20 + 15)) for data in (one, *many)]
        assert len(set(places)) == 1
    more = 12 if workers else 4  # a row that counts nothing, where it has none; what is prepared ahead
    assert own + 4 <= len(prepared[0]) <= own + more and len(prepared[3]) >= 60


def test_processes_take_their_rows_of_an_iterable_dataset():
    class Count(IterableDataset):
        def __iter__(self):
            return iter([{"labels": i} for i in range(7)])

    shares = [Share(StreamDataset(Count(), 10, 5), NUMBERS, World(rank, 2)) for rank in range(2)]
    for indices, wanted in (([0, 1, 2, 3, 4], [0, 1, 2, 3, 4]), ([5, 6, 7, 8, 9], [5, 6, 0, 1, 2])):
        found = [share.__getitems__(indices) for share in shares]
        assert [number for batch in found for number in batch["labels"].tolist()] == wanted
        assert [batch["share"].tolist() for batch in found] == [[2, 5], [3, 5]]


def test_every_task_says_what_its_loss_is_a_mean_over():
    """Without it, pieces of a step would weigh as many rows as they have, not as many tokens."""
    for name in TASKS:
        if (Path(tasks.__file__).parent / name / "task.py").is_file():
            kinds = vars(import_module(f"ssmlab.tasks.{name}.task")).values()
            found = [kind for kind in kinds if hasattr(kind, "count_correct") and hasattr(kind, "validation")]
            assert found and all(hasattr(kind, "counts") for kind in found), name


def test_images_stay_with_their_rows():
    ids = torch.tensor([[-1, -1, -1, -1, 5], [3, 4, 5, 6, 7], [-1, -1, 8, 9, 9]])  # two tokens an image
    batch = {"ids": ids, "labels": ids, "features": torch.arange(3.0)[:, None]}
    images = [rows_of(batch, slice(i, i + 1), VisionLanguage()).get("features") for i in range(3)]
    assert images[0].flatten().tolist() == [0, 1] and images[1] is None and images[2].flatten().tolist() == [2]


def test_what_does_not_go_together_is_refused():
    with pytest.raises(UserError, match="carry_state .* training.accumulation=1"):
        Parallel(network(), Language(vocab_size=9, stateful=True), FitConfig(accumulation=2), World(), CPU)
    with pytest.raises(UserError, match="sharding='full' cannot be used with ema"):
        Parallel(network(), None, FitConfig(sharding="full", ema=0.9), World(0, 2), CPU)

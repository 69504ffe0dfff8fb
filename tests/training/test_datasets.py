"""`fit` with any dataset of torch, with and without a folder."""

import itertools
import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset

from ssmlab.core.device import ComputeConfig
from ssmlab.core.errors import UserError
from ssmlab.core.progress import Progress
from ssmlab.models import create_model
from ssmlab.tasks.classify.task import Classify
from ssmlab.tasks.classify_sequence.task import ClassifySequences
from ssmlab.tasks.language.task import Language
from ssmlab.training.config import FitConfig
from ssmlab.training.dataset import BatchedDataset, StreamDataset
from ssmlab.training.fit import fit
from ssmlab.training.predict import predict

TASK = Classify(classes=("a", "b", "c"), mean=(0.5,) * 3, std=(0.25,) * 3)
CONFIG = FitConfig(epochs=2, batch_size=8, learning_rate=1e-2)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(72, 3))


def arrays(n):
    labels = torch.arange(n) % 3
    noise = torch.randint(0, 90, (n, 3, 8, 8), generator=torch.Generator().manual_seed(n))
    return (noise + 80 * labels[:, None, None, None]).to(torch.uint8), labels


class Pairs(Dataset):
    """What a user writes: (image, label) by number."""

    def __init__(self, n):
        self.images, self.labels = arrays(n)

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        return self.images[i], int(self.labels[i])


class Stream(IterableDataset):
    """The same in order, without a length."""

    def __init__(self, n, length=False):
        self.pairs = Pairs(n)
        if length:
            self.__class__ = type("Sized", (Stream,), {"__len__": lambda self: len(self.pairs)})

    def __iter__(self):
        return iter([self.pairs[i] for i in range(len(self.pairs))])


def weights(model):
    return torch.cat([p.flatten() for p in model.parameters()])


def fitted(train, val=None, **how):
    config = how.pop("config", CONFIG)
    return fit(network(), TASK, train, val, config, device="cpu", **how)


def test_every_form_of_the_same_images_trains_the_same():
    images, labels = arrays(48)
    forms = [
        BatchedDataset({"images": images, "labels": labels}),
        Pairs(48),
        TensorDataset(images, labels),
        [(image.permute(1, 2, 0).numpy(), label) for image, label in zip(images, labels, strict=True)],
        [(Image.fromarray(image.permute(1, 2, 0).numpy()), label) for image, label in zip(images, labels, strict=True)],
        Subset(Pairs(48), range(48)),
    ]
    first, *others = [weights(fitted(form).model) for form in forms]
    assert all(torch.equal(first, other) for other in others)


def test_without_a_folder_nothing_is_written_and_the_best_epoch_can_be_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = fitted(Pairs(48), Pairs(12), config=CONFIG.model_copy(update={"keep": "best", "watch_gradients": 2}))
    assert not list(tmp_path.iterdir())
    assert {r.metric for r in found.records} >= {"loss", "accuracy", "train_seconds", "kept_epoch"}
    assert {r.split for r in found.records} == {"train", "val", None}
    assert found.steps == 12 and found.history[-1]["epoch"] == 2
    assert not found.model.training and not fitted(Pairs(48)).model.training
    with pytest.raises(UserError, match="keep='best' chooses by the validation part"):
        fitted(Pairs(48), config=FitConfig(keep="best"))


class Stop(Progress):
    def __init__(self, step):
        self.step = step

    def update(self, done, note=""):
        if done == self.step:
            raise MemoryError  # as hard as an end can be from inside


@pytest.mark.parametrize("train", [lambda: Pairs(48), lambda: Stream(48, length=True)], ids=["map", "stream"])
def test_a_killed_fit_goes_on_bit_equal_when_it_is_called_again(tmp_path, train):
    config = CONFIG.model_copy(update={"checkpoint_steps": 2})
    whole = fitted(train(), Pairs(12), config=config, folder=tmp_path / "whole")
    with pytest.raises(MemoryError):
        fitted(train(), Pairs(12), config=config, folder=tmp_path / "cut", progress=Stop(9))
    again = fitted(train(), Pairs(12), config=config, folder=tmp_path / "cut")
    assert torch.equal(weights(whole.model), weights(again.model))
    strip = [[{k: v for k, v in row.items() if "runtime" not in k and "second" not in k} for row in r.history]
             for r in (whole, again)]  # fmt: skip
    assert [row for row in strip[0] if "loss" in row or "eval_loss" in row] == [
        row for row in strip[1] if "loss" in row or "eval_loss" in row
    ]
    done = fitted(train(), Pairs(12), config=config, folder=tmp_path / "cut")
    assert torch.equal(weights(done.model), weights(again.model)), "a finished one is as it was"


def test_a_folder_of_another_training_is_not_gone_on_with(tmp_path):
    first = fitted(Pairs(48), folder=tmp_path)
    with pytest.raises(
        UserError, match=r"holds a training of epochs=2 \(now 3\); go on with that one, begin again with"
    ):
        fitted(Pairs(48), folder=tmp_path, config=CONFIG.model_copy(update={"epochs": 3}))
    other = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    with pytest.raises(UserError, match="holds a training of another model"):
        fit(other, TASK, Pairs(48), None, CONFIG, device="cpu", folder=tmp_path)
    again = fitted(Pairs(48), folder=tmp_path, resume=False)
    assert again.steps == first.steps
    (checkpoint,) = (tmp_path / "checkpoints").glob("checkpoint-*")
    (checkpoint / "clock.json").write_text('{"seconds": 1.5}')  # as older versions wrote it
    (checkpoint / "checksums.json").unlink()
    assert fitted(Pairs(48), folder=tmp_path).seconds == pytest.approx(1.5, abs=0.5)


def test_a_stream_without_a_length_is_trained_for_so_many_steps():
    found = fitted(Stream(20), Stream(12), config=CONFIG.model_copy(update={"min_steps": 6}))
    assert found.steps == 6 and sum("eval_loss" in row for row in found.history) == 2
    with pytest.raises(UserError, match="say how many steps it is trained on with min_steps"):
        fitted(Stream(20))


class Positioned:
    """A stream that knows where it is, as `ssmlab.data.stream` and others' do; counts what is read."""

    def __init__(self, n):
        self.pairs, self.at, self.read = Pairs(n), 0, 0

    def __len__(self):
        return 48

    def __iter__(self):
        while self.at < len(self.pairs):
            self.at += 1
            self.read += 1
            yield self.pairs[self.at - 1]
        self.at = 0

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.at = state["at"]


def test_a_stream_with_a_position_goes_on_without_reading_again(tmp_path):
    config = CONFIG.model_copy(update={"checkpoint_steps": 1, "epochs": 3})
    whole = fitted(Positioned(50), Pairs(12), config=config, folder=tmp_path / "whole")
    for step in (4, 6, 15):  # in an epoch, at its end
        with pytest.raises(MemoryError):
            fitted(Positioned(50), Pairs(12), config=config, folder=tmp_path / "cut", progress=Stop(step))
    (file,) = (tmp_path / "cut").rglob("stream.json")
    assert json.loads(file.read_text()) == {"item": 14 * 8, "state": {"at": 12}}
    stream = Positioned(50)
    again = fitted(stream, Pairs(12), config=config, folder=tmp_path / "cut")
    assert torch.equal(weights(whole.model), weights(again.model))
    assert stream.read == 4 * 8, "the steps that were left"


def test_a_stream_begins_again_when_it_ends_and_can_be_entered_anywhere():
    class Count(IterableDataset):
        def __iter__(self):
            return iter(range(5))

    stream = StreamDataset(Count(), 4, 2)
    assert [stream[i] for i in range(4)] == [0, 1, 2, 3]
    stream.begin_epoch(1)
    assert [stream[i] for i in (0, 1, 2)] == [4, 0, 1]
    fresh = StreamDataset(Count(), 4, 2)
    fresh.begin_epoch(1)
    assert fresh[1] == 0 and fresh[3] == 2
    assert fresh[0] == 4, "and back"
    assert fresh.__getitems__([3, 0, 3]) == [2, 4, 2] and fresh.__getitems__([1, 2]) == [0, 1]


@pytest.mark.parametrize(
    ("data", "message"),
    [(3, "expected a dataset of torch with __getitem__ and __len__, got int"), ([], "the dataset is empty")],
)
def test_what_is_no_dataset_is_said(data, message):
    with pytest.raises(UserError, match=message):
        fitted(data)


def test_images_of_several_sizes_are_said():
    with pytest.raises(UserError, match=r"one size \(c, h, w\), got \(3, 8, 8\) and \(3, 9, 8\)"):
        TASK.collate([(torch.zeros(3, 8, 8), 0), (torch.zeros(3, 9, 8), 1)])


def test_kinds_of_images_become_the_same_numbers():
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    floats = np.stack([grey] * 3, -1).astype(np.float32) / 255
    images = [*TASK.collate([(grey, 0), (Image.fromarray(grey), 1)])["images"], *TASK.collate([(floats, 2)])["images"]]
    assert [image.shape for image in images] == [(3, 8, 8)] * 3
    assert torch.equal(images[0], images[1]) and torch.allclose(images[0].float(), images[2])


def test_sequences_of_any_length_are_filled_up():
    batch = Language(vocab_size=9).collate([[1, 2, 3], torch.tensor([4, 5])])
    assert batch["tokens"].tolist() == [[1, 2], [4, 0]] and batch["labels"].tolist() == [[2, 3], [5, -100]]
    task = ClassifySequences(classes=("a", "b"))
    batch = task.collate([([1, 2, 3], 0), ([4], 1)])
    assert batch["mask"].tolist() == [[True] * 3, [True, False, False]] and batch["labels"].tolist() == [0, 1]
    assert "mask" not in task.collate([([1], 0), ([2], 1)])


def test_predictions_are_those_of_one_batch_whatever_the_dataset_is():
    model, images = network().eval(), arrays(13)[0]
    with torch.no_grad():
        expected = model(TASK.prepare(images)).numpy()
    for data, size in itertools.product(
        (Pairs(13), BatchedDataset({"images": images, "labels": arrays(13)[1]})), (4, 13)
    ):
        found = predict(model, TASK, data, batch_size=size, compute=ComputeConfig(device="cpu"))
        assert np.allclose(found.values, expected, atol=1e-6) and found.seconds > 0


def test_a_language_model_is_averaged_and_goes_on_with_its_average(tmp_path):
    """Its embedding and its head are one tensor, which a file of tensors holds once."""
    config = FitConfig(epochs=2, batch_size=4, learning_rate=1e-3, ema=0.5, checkpoint_steps=1)
    rows = [torch.arange(i, i + 9) % 30 for i in range(12)]

    def trained(folder, **how):
        torch.manual_seed(0)
        model = create_model("mamba_lm_test", vocab_size=30)
        fit(model, Language(vocab_size=30), rows, rows[:4], config, folder=folder, device="cpu", **how)
        return weights(model)

    whole = trained(tmp_path / "whole")
    with pytest.raises(MemoryError):
        trained(tmp_path / "cut", progress=Stop(4))
    assert torch.equal(trained(tmp_path / "cut"), whole)

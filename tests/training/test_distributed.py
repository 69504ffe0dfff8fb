"""Training by several processes: the same batches, updates, records and checkpoints as by one."""

import pytest

from processes import together
from ssmlab.core.record import read_records

FLOAT = ["training.precision=float32", "seeds=[0]"]
TEXT = ["data.limit=24", "data.length=32", "training.batch_size=8", "evaluation.throughput_repeats=1",
        "evaluation.bootstrap=100"]  # fmt: skip
JOBS = {
    "classify": ["classification/digits_resnet18_vs_hybrid",
                 ["data.limit=64", "training.epochs=2", "evaluation.samples=3", "evaluation.throughput_batch=4",
                  "models=[{name='vim_test'}]", "training.augment={}", "training.batch_size=9"]],
    "language": ["language/text", [*TEXT, "models=[{name='mamba_lm_test'}]"]],
    "carried": ["language/text", [*TEXT, "models=[{name='mamba2_lm_test'}]", "training.carry_state=true"]],
    "classify_sequence": ["language/classify_dna", ["models=[{name='mamba_lm_test'}]"]],
    "synthetic": ["language/induction_heads", ["models=[{name='mamba_lm_test'}]"]],
    "translate": ["translation/multi30k", ["data.limit=8", "models=[{name='translation_mamba',label='mamba'}]",
                                           "training.label_smoothing=0.1"]],
    "segment": ["segmentation/roads_umamba", ["models=[{name='umamba_bot'}]"]],
}  # fmt: skip


def jobs(prefix, *changes, names=JOBS):
    return [[JOBS[n][0], [*JOBS[n][1], *FLOAT, *changes, f"name={prefix}-{n}"]] for n in names]


def curve(folder):
    """Losses and metrics of training and validation by step."""
    records = read_records(folder / "records.jsonl")
    return {
        (r.split, r.metric, r.step): r.value
        for r in records
        if r.step is not None and r.split in ("train", "val") and r.metric not in ("seconds", "learning_rate", "epoch")
    }


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    together(1, "launched", "runs", jobs("one"), str(folder))
    return folder


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    together(2, "launched", "runs", jobs("two"), str(folder))
    return folder


def assert_same(a, b, tolerance=1e-6):
    first, second = curve(a), curve(b)
    assert first.keys() == second.keys() and len([1 for key in first if key[1] == "loss"]) >= 2
    far = {key: (value, second[key]) for key, value in first.items() if abs(value - second[key]) > tolerance}
    assert not far


@pytest.mark.parametrize("name", JOBS)
def test_two_processes_train_as_one(one, two, name):
    assert_same(one / f"one-{name}", two / f"two-{name}")

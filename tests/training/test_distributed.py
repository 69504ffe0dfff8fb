"""Training by several processes: the same batches, updates, records and checkpoints as by one."""

import shutil
import signal
import subprocess
import sys
import time

import pytest
from safetensors.torch import load_file

from processes import SECONDS, assert_same, ended, environment, free_port, start, together

pytestmark = pytest.mark.slow  # whole runs, by two and three processes

FLOAT = ["training.precision=float32", "seeds=[0]"]
TEXT = ["data.limit=24", "data.length=32", "training.batch_size=8", "evaluation.throughput_repeats=1",
        "evaluation.bootstrap=100"]  # fmt: skip
JOBS = {
    "classify": ["classification/digits_resnet18_vs_hybrid",
                 ["data.limit=64", "training.epochs=2", "evaluation.samples=3", "evaluation.throughput_batch=4",
                  "models=[{name='vim_test',options={drop_path_rate=0.0}}]", "training.batch_size=9",
                  *(f"training.augment.{change}=0" for change in ("shift", "scale", "rotate"))]],
    "language": ["language/text", [*TEXT, "models=[{name='mamba_lm_test'}]"]],
    "carried": ["language/text", [*TEXT, "models=[{name='mamba2_lm_test'}]", "training.carry_state=true"]],
    "classify_sequence": ["language/classify_dna", ["models=[{name='mamba_lm_test'}]"]],
    "synthetic": ["language/induction_heads", ["models=[{name='mamba_lm_test'}]", "training.batch_size=16"]],
    "translate": ["translation/multi30k", ["data.limit=8", "models=[{name='translation_mamba',label='mamba'}]",
                                           "training.label_smoothing=0.1", "training.ema=0"]],
    "segment": ["segmentation/roads_umamba", ["models=[{name='umamba_bot'}]"]],
    "vision_language": ["vision_language/own_data", []],
    "averaged": ["language/induction_heads", ["models=[{name='mamba_lm_test'}]", "training.batch_size=16",
                                              "training.ema=0.9", "training.keep=best"]],
}  # fmt: skip
SHARDED = [name for name in JOBS if name != "averaged"]
PIECES = ("classify", "language", "segment", "translate")  # what is trained in pieces too


def jobs(prefix, *changes, names=JOBS):
    return [[JOBS[n][0], [*JOBS[n][1], *FLOAT, *changes, f"name={prefix}-{n}"]] for n in names]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """Vocabularies are kept in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    pieces = jobs("pieces", "training.accumulation=3", names=PIECES)
    together(1, "launched", "runs", [*jobs("one"), *pieces], str(folder))
    return folder


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    together(
        2, "launched", "runs", [*jobs("two"), *jobs("full", "training.sharding='full'", names=SHARDED)], str(folder)
    )
    return folder


@pytest.mark.parametrize("name", JOBS)
def test_two_processes_train_as_one(one, two, name):
    assert_same(one / f"one-{name}", two / f"two-{name}")


@pytest.mark.parametrize("name", SHARDED)
def test_shards_train_as_one_process(one, two, name):
    assert_same(one / f"one-{name}", two / f"full-{name}")
    weights = load_file(next((two / f"full-{name}").glob("models/*/model.safetensors")))
    assert weights and all(tensor.isfinite().all() for tensor in weights.values())


@pytest.mark.parametrize("name", PIECES)
def test_pieces_of_a_batch_train_as_the_whole(one, name):
    assert_same(one / f"one-{name}", one / f"pieces-{name}")


@pytest.fixture(scope="module", params=["none", "full"])
def stopped(request, tmp_path_factory):
    """Runs of two processes, of which the second was asked to stop in the second step; all have more."""
    folder, names = tmp_path_factory.mktemp("stopped"), SHARDED if request.param == "full" else list(JOBS)
    stopped = jobs("stopped", f"training.sharding='{request.param}'", names=names)
    found = ended(start(2, "launched", "runs", stopped, str(folder), [1, 2, signal.SIGTERM]))
    assert [code for code, _ in found] == [143, 143], found
    return folder, names


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_checkpoint_of_two_goes_on_with_any_number(one, stopped, tmp_path, size):
    folder, names = stopped
    shutil.copytree(folder, tmp_path / "runs")
    for name in names:
        (checkpoint,) = (tmp_path / "runs" / f"stopped-{name}").rglob("checkpoint-*")
        assert checkpoint.name == "checkpoint-3"  # all agree at the beginning of a step
    together(size, "launched", "runs", jobs("stopped", names=names), str(tmp_path / "runs"))
    for name in names:
        assert_same(one / f"one-{name}", tmp_path / "runs" / f"stopped-{name}")


def test_where_one_is_stopped_in_the_last_step_all_are(tmp_path):
    """They have no step left in which they would agree on it."""
    job = jobs("last", names=["language"])
    found = ended(start(2, "launched", "runs", job, str(tmp_path), [1, 6, signal.SIGTERM]), 120)
    assert [code for code, _ in found] == [143, 143], found


def test_where_one_is_killed_the_others_end_and_the_run_goes_on(two, tmp_path):
    name = "language"
    processes = start(2, "launched", "runs", jobs("killed", names=[name]), str(tmp_path), [1, 5, signal.SIGKILL])
    processes[1].wait(120)
    begin = time.monotonic()
    (code, error), (killed, _) = ended(processes, 60)
    assert time.monotonic() - begin < 60 and code == 1 and killed == -signal.SIGKILL
    (line,) = [line for line in error.splitlines() if "another one has gone" in line]
    assert line.startswith("process 0 of 2 ends")
    together(2, "launched", "runs", jobs("killed", names=[name]), str(tmp_path))
    assert_same(two / f"two-{name}", tmp_path / f"killed-{name}", tolerance=0)
    folders = (two / f"two-{name}", tmp_path / f"killed-{name}")
    first, second = (load_file(next(folder.glob("models/*/model.safetensors"))) for folder in folders)
    assert all(first[key].equal(second[key]) for key in first)


TORCHRUN = "torch.distributed.run --nproc-per-node 2 --master-port {port} -m"
ACCELERATE = "accelerate.commands.launch --multi_gpu --num_processes 2 --main_process_port {port} -m"


@pytest.mark.parametrize("launcher", [TORCHRUN, ACCELERATE], ids=["torchrun", "accelerate"])
def test_the_command_behind_a_launcher(one, tmp_path, launcher):
    """One comparison is printed, by the first process; the second command finds the run finished."""
    recipe, changes = JOBS["language"]
    command = [sys.executable, "-m", *launcher.format(port=free_port()).split(), "ssmlab", "run", recipe, *changes,
               *FLOAT, "name=command", "--smoke", "--output", str(tmp_path)]  # fmt: skip
    clean = environment(0, 1, 0) | {"HF_HOME": str(tmp_path / "no settings of accelerate")}
    how = {"env": clean, "capture_output": True, "text": True, "timeout": SECONDS}
    done = subprocess.run(command, **how)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("report.html") == 1 and (tmp_path / "command" / "report.html").is_file()
    assert "2 processes, each with all weights" in done.stdout + done.stderr
    assert_same(one / "one-language", tmp_path / "command")
    again = subprocess.run(command, **how)
    assert again.returncode != 0 and "already holds a run (finished" in again.stderr


def test_accelerate_starts_one_process_on_cpus(tmp_path):
    """It says so nowhere; the run is refused in one line."""
    launch = (
        f"{sys.executable} -m accelerate.commands.launch --cpu --num_processes 2 -m ssmlab run language/text".split()
    )
    clean = environment(0, 1, 0) | {"HF_HOME": str(tmp_path)}
    done = subprocess.run([*launch, "--smoke", "--output", str(tmp_path)], env=clean, capture_output=True, text=True)
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("ssmlab: ")]
    assert "accelerate launch has started a single process" in line and not list(tmp_path.iterdir())

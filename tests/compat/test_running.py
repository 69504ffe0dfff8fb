"""`ssmlab exec`: arguments, `__main__`, modules, and code that enters the GPU's context on a CPU."""

import os
import subprocess
import sys

import pytest

from forked import ssmlab

PROGRAM = """
import sys
import torch
import neighbour
from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
x = torch.ones(1, 2, 3)
with torch.cuda.device(x.device):
    with torch.cuda.device(x.device.index):
        y = selective_scan_fn(x, x, -torch.ones(2, 1), torch.ones(1, 1, 3), torch.ones(1, 1, 3))
print(__name__, sys.argv[1:], tuple(y.shape), neighbour.name)
"""


def execute(*arguments, folder):
    return ssmlab("exec", *arguments, folder=folder)


def execute_in_a_fresh_python(*arguments, folder):
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "ssmlab", "exec", *arguments], capture_output=True, text=True, cwd=folder
    )


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "program.py").write_text(PROGRAM)
    (tmp_path / "code" / "neighbour.py").write_text("name = 'found'\n")
    return tmp_path


def test_a_script(folder):
    done = execute_in_a_fresh_python("code/program.py", "--lr", "1", "-m", "x", "--force", folder=folder)
    assert done.stdout.split("\n")[0] == "__main__ ['--lr', '1', '-m', 'x', '--force'] (1, 2, 3) found", done.stderr


def test_a_module(folder):
    done = execute("-m", "program", "-h", folder=folder / "code")
    assert done.stdout.split("\n")[0] == "__main__ ['-h'] (1, 2, 3) found", done.stderr


def test_its_exit_code_is_its_own(folder):
    (folder / "fails.py").write_text("raise SystemExit(7)\n")
    assert execute("fails.py", folder=folder).returncode == 7


@pytest.mark.parametrize("arguments", [("nothing.py",), ("-m",)])
def test_nothing_to_run(folder, arguments):
    done = execute(*arguments, folder=folder)
    assert done.returncode == 2 and done.stderr.startswith("ssmlab: ") and done.stderr.count("\n") == 1, done.stderr


def test_a_program_that_fails_shows_its_own_lines_alone(folder):
    (folder / "bad.py").write_text("def f():\n    raise ValueError('why')\nf()\n")
    done = execute("bad.py", folder=folder)
    assert done.returncode == 1 and "ssmlab" not in done.stderr and "runpy" not in done.stderr
    assert done.stderr.splitlines()[-1] == "ValueError: why" and done.stderr.count("File ") == 2


def test_a_module_of_a_package_that_needs_the_originals(folder):
    package = folder / "package"
    package.mkdir()
    (package / "__init__.py").write_text("import mamba_ssm\n")
    (package / "train.py").write_text("print('trained')\n")
    (package / "other.py").write_text("import missing_thing\n")
    assert execute("-m", "package.train", folder=folder).stdout == "trained\n"
    for wrong in ("package.trian", "no.such_module"):
        missing = execute("-m", wrong, folder=folder)
        assert missing.returncode == 2 and missing.stderr.count("\n") == 1 and missing.stdout == ""
        assert missing.stderr.startswith(f"ssmlab: there is no module {wrong}")
    assert "No module named 'missing_thing'" in execute("-m", "package.other", folder=folder).stderr


DEVICES = """
import subprocess, sys, torch
from torch.utils.data import DataLoader

class Moved(torch.utils.data.Dataset):
    def __len__(self):
        return 1
    def __getitem__(self, i):
        return torch.ones(2, device="cuda:0")

if __name__ == "__main__":
    print(torch.device("cuda"), torch.cuda.is_available())
    for context in ("fork", "spawn", "forkserver"):  # the last is 3.14's own
        print(context, next(iter(DataLoader(Moved(), num_workers=1, multiprocessing_context=context))).device)
    code = "import torch; from mamba_ssm import Mamba; print('started', torch.ones(1).cuda().device)"
    subprocess.run([sys.executable, "-c", code], check=True)
"""


@pytest.mark.slow
def test_devices_in_every_process(folder):
    (folder / "devices.py").write_text(DEVICES)
    done = execute_in_a_fresh_python("--device", "cpu", "devices.py", folder=folder)
    assert done.stdout.splitlines() == ["cpu True", "fork cpu", "spawn cpu", "forkserver cpu", "started cpu"], (
        done.stderr
    )
    assert done.stderr.count("no GPU is used") == 1, done.stderr


def test_devices_left_alone(folder):
    (folder / "alone.py").write_text("import torch\nprint(torch.device('cuda'), torch.zeros(1).device)\n")
    assert execute("--device", "cuda", "alone.py", folder=folder).stdout == "cuda cpu\n"


@pytest.mark.parametrize(
    ("option", "wrong"), [("--device", "gpu"), ("--autocast", "float16")], ids=["device", "autocast"]
)
def test_unknown_options(folder, option, wrong):
    done = execute(option, wrong, "code/program.py", folder=folder)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith(f"ssmlab: {option} must be ") and repr(wrong) in done.stderr


def test_autocast_as_chosen(folder):
    (folder / "half.py").write_text(
        "import torch\nx = torch.ones(2, 2)\nwith torch.autocast('cuda'):\n    print((x @ x).dtype)\n"
    )
    assert execute("--autocast", "bfloat16", "half.py", folder=folder).stdout == "torch.bfloat16\n"


def test_a_fork_is_named(folder):
    (folder / "fork.py").write_text("from mamba_ssm import selective_scan_fn\nselective_scan_fn(scan_type='zigzag')\n")
    done = execute("fork.py", folder=folder)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(
        "ssmlab: selective_scan_fn(scan_type=...) is no argument of mamba_ssm"
    )


def test_a_hidden_sitecustomize_still_runs(folder, monkeypatch):
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text("print('customized')\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder / "site"), os.environ.get("PYTHONPATH", "")]))
    (folder / "parent.py").write_text(
        "import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'print(1)'], check=True)\n"
    )
    assert execute_in_a_fresh_python("parent.py", folder=folder).stdout == "customized\ncustomized\n1\n"

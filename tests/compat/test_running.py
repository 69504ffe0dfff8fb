"""`ssmlab exec`: arguments, `__main__`, modules, and code that enters the GPU's context on a CPU."""

import subprocess
import sys

import pytest

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
    done = execute("code/program.py", "--lr", "1", "-m", "x", "--force", folder=folder)
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

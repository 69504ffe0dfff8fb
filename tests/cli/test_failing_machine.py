"""Full disks, folders that cannot be written to, too little memory, signals: one line, and nothing is lost."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
import typer
from calling import call
from safetensors import SafetensorError
from safetensors.torch import load_file

from ssmlab.cli import main as command_line
from ssmlab.cli.display import showing
from ssmlab.core.errors import Interrupted, explain_system
from ssmlab.core.files import write_atomically, write_file, write_tensors

DIGITS = "classification/digits_resnet18_vs_hybrid"
SMALL = ["--smoke", "data.limit=64", "training.epochs=2", "evaluation.samples=3", "evaluation.throughput_batch=4",
         "training.batch_size=16", "name=small"]  # fmt: skip


@pytest.mark.parametrize(
    ("error", "said", "code"),
    [
        (OSError(errno.ENOSPC, "x", "a/b"), "a/b: no space left; what was there is intact; make room, then", 1),
        (OSError(errno.ENOSPC, "x", b"a/b"), "a/b: no space left", 1),
        (OSError(errno.EDQUOT, "x", "a/b"), "a/b: no space left", 1),
        (OSError(errno.EIO, "x", "a/b"), "a/b: the disk cannot be read or written", 1),
        (PermissionError(errno.EACCES, "Permission denied", "a"), "a: Permission denied; change its permissions", 2),
        (OSError(errno.EROFS, "Read-only file system", "a"), "a: Read-only file system; change its perm", 2),
        (NotADirectoryError(errno.ENOTDIR, "x", "a/b"), "a/b: a file is there where a folder is needed", 2),
        (FileExistsError(errno.EEXIST, "x", "a"), "a: a file is there where a folder is needed", 2),
        (IsADirectoryError(errno.EISDIR, "x", "a"), "a: a folder is there where a file is needed", 2),
        (FileNotFoundError(errno.ENOENT, "x", "a"), "a: there is no such file or folder; check the name", 2),
        (OSError(errno.ENAMETOOLONG, "x", "a" * 300), "aaaa", 2),
        (OSError(errno.EMFILE, "x"), "too many files are open; raise the limit with `ulimit -n`", 1),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "out of memory", 1),
        (MemoryError(), "out of memory; take a smaller model, image, length or batch, or another machine", 1),
        (MemoryError("Unable to allocate 149. GiB for an array"), "out of memory (149. GiB were needed at once)", 1),
        (RuntimeError("[enforce] DefaultCPUAllocator: can't allocate memory: you tried to allocate 160 bytes."),
         "out of memory (160 bytes were needed at once); take", 1),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has"),
         "out of memory (2.00 GiB were needed at once); take", 1),
        (RuntimeError("could not create a primitive"), "out of memory (could not create a primitive); take", 1),
    ],
)  # fmt: skip
def test_what_the_machine_refuses_is_one_line(error, said, code, monkeypatch, capsys):
    def fails(*_, **__):
        raise error

    monkeypatch.setattr(command_line, "app", fails)
    assert call("doctor") == code
    shown = capsys.readouterr().err
    assert shown.startswith(f"ssmlab: {said}") and shown.count("\n") == 1
    monkeypatch.setenv("SSMLAB_DEBUG", "1")
    with pytest.raises(type(error)):
        call("doctor")


def test_a_thread_whose_file_cannot_be_written_is_told_once(monkeypatch, capsys):
    """As TensorBoard's: the thread ends with the error, and the next call of its writer raises it again."""
    seen = []
    monkeypatch.setattr(threading, "excepthook", seen.append)

    def fails(*_, **__):
        errors = [OSError(errno.ENOSPC, "No space left on device", "log"), ValueError("a bug")]
        for error in errors:
            thread = threading.Thread(target=raises, args=(error,))
            thread.start()
            thread.join()
        raise errors[0]

    monkeypatch.setattr(command_line, "app", fails)
    assert call("doctor") == 1
    assert [type(told.exc_value) for told in seen] == [ValueError] and threading.excepthook == seen.append
    assert (
        capsys.readouterr().err
        == "ssmlab: log: no space left; what was there is intact; make room, then repeat the command\n"
    )


def raises(error):
    raise error


def test_a_file_that_ends_too_early_is_no_interruption(monkeypatch):
    def fails(*_, **__):  # as typer does
        raise typer.Abort from EOFError("a bug")

    monkeypatch.setattr(command_line, "app", fails)
    with pytest.raises(EOFError, match="a bug"):
        call("doctor")


@pytest.mark.parametrize("error", [RuntimeError("a bug"), OSError("without a number"), ValueError("a bug")])
def test_other_errors_are_not_hidden(error, monkeypatch):
    def fails(*_, **__):
        raise error

    assert explain_system(error) is None
    monkeypatch.setattr(command_line, "app", fails)
    with pytest.raises(type(error)):
        call("doctor")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_interrupted(number, code, monkeypatch, capsys):
    def stopped(*_, **__):
        raise Interrupted(number)

    monkeypatch.setattr(command_line, "app", stopped)
    assert call("doctor") == code and capsys.readouterr().err == "ssmlab: interrupted\n"


def test_what_a_library_makes_of_a_signal_is_the_signal(monkeypatch, capsys):
    def half_imported(*_, **__):
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt as error:
            raise ImportError("cannot import name 'x'") from error

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(command_line, "app", half_imported)
    try:
        assert call("doctor") == 143 and capsys.readouterr().err == "ssmlab: interrupted\n"
        with pytest.raises(typer.Exit) as stopped, showing("go on with --resume"):
            half_imported()
        assert stopped.value.exit_code == 143 and "go on with --resume" in capsys.readouterr().out
        monkeypatch.setattr(command_line, "app", lambda *_, **__: [][1])  # a later mistake is not the signal's
        with pytest.raises(IndexError):
            call("doctor")
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_signal_that_nobody_can_raise_comes_again(monkeypatch):
    class Callback:
        def __del__(self):
            signal.raise_signal(signal.SIGTERM)

    def goes_on(*_, **__):
        found = Callback()
        del found
        time.sleep(30)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(sys, "unraisablehook", sys.__unraisablehook__)
    monkeypatch.setattr(command_line, "app", goes_on)
    try:
        assert call("doctor") == 143
    finally:
        signal.signal(signal.SIGTERM, before)


def test_every_writer_says_which_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, "old")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    def torchs(_):
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 280320 vs 280208")

    def safetensors(*_):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space left on device") as found:
            write_atomically(path, "new")
        assert found.value.filename == str(path)
    with monkeypatch.context() as patch:
        patch.setattr("safetensors.torch.save_file", safetensors)
        with pytest.raises(OSError, match="No space left on device") as found:
            write_tensors(path, {})
        assert (found.value.errno, found.value.filename) == (errno.ENOSPC, str(path))
    for free, number in ((0, errno.ENOSPC), (1 << 40, errno.EIO)):
        monkeypatch.setattr("shutil.disk_usage", lambda _, free=free: type("Usage", (), {"free": free}))
        with pytest.raises(OSError, match="file") as found:
            write_file(path, torchs)
        assert (found.value.errno, found.value.filename) == (number, str(path))
    with pytest.raises(KeyError):
        write_file(path, lambda _: {}["a bug"])
    assert path.read_text() == "old" and [file.name for file in tmp_path.iterdir()] == ["file"]


def test_without_memory_for_a_model(tmp_path, capsys):
    """A layer of 200,000 x 800,000 numbers."""
    text = tmp_path / "text.txt"
    text.write_text("To be, or not to be. " * 400)
    code = call("run", "language/text", "--smoke", f"data.path={text}", "models.0.options={d_model=20000000}",
                "--output", tmp_path)  # fmt: skip
    assert code in (1, 2)
    shown = capsys.readouterr().err
    assert "out of memory" in shown and shown.strip().count("\n") == 0


def program(*arguments, **environment):
    """The command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "ssmlab", *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, env={**os.environ, **environment}, encoding="utf-8", errors="replace",
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(900)  # four programs, each of which imports torch
def test_a_run_that_is_stopped_and_the_same_command(tmp_path):
    number, code = signal.SIGTERM, 143
    command = ["run", DIGITS, *SMALL, "training.min_steps=4000", "--output", tmp_path]
    with program(*command) as first:
        checkpoints = tmp_path / "small" / "models" / "resnet_test" / "checkpoints"
        while not any(checkpoints.glob("checkpoint-*")):
            assert first.poll() is None, first.stdout.read()
            time.sleep(0.1)
        with program(*command, "--overwrite") as second:
            shown = second.communicate()[0]
        assert second.returncode == 2 and f"is in use by process {first.pid} since" in shown
        first.send_signal(number)
        shown = first.communicate()[0]
    assert first.returncode == code and f"continue with: ssmlab run {tmp_path / 'small'} --resume" in shown
    assert "Traceback" not in shown and not (tmp_path / "small" / ".lock").exists()
    before = set(checkpoints.glob("checkpoint-*"))
    with program(*command) as again:
        while "goes on after step" not in (line := again.stdout.readline()):
            assert line, "it did not go on"
        while not set(checkpoints.glob("checkpoint-*")) - before:  # it trains
            assert again.poll() is None, again.stdout.read()
            time.sleep(0.1)
        again.send_signal(number)
        rest = again.communicate()[0]
    assert again.returncode == code, rest


TINY = ["run", DIGITS, *SMALL, "training.epochs=1", "data.limit=32", "evaluation.throughput_repeats=1"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing has disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    assert call(*TINY, "--output", folder) == 0
    return folder / "small"


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 3, 5, 6, 8, 12, 20])
def test_a_full_disk_and_then_room(whole, tmp_path, monkeypatch, capsys, n):
    """The n-th file cannot be written, as on a full disk: one line, and the same command ends with the same bits."""
    left, plain = [n], os.replace

    def replace(*paths, **options):
        left[0] -= 1
        if left[0] == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return plain(*paths, **options)

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", replace)
        assert call(*TINY, "--output", tmp_path) == 1
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1 and "no space left; what was there is intact" in shown and str(tmp_path) in shown
    assert call(*TINY, "--output", tmp_path) == 0
    assert call("run", "--check", tmp_path / "small") == 0
    for label in ("resnet_test", "resnet_mamba_test"):
        one, other = (load_file(run / "models" / label / "model.safetensors") for run in (tmp_path / "small", whole))
        assert all(torch.equal(one[key], other[key]) for key in one)
    halves = [path for path in (tmp_path / "small").rglob(".*") if path.name != ".ssmlab-run"]
    assert not halves, "nothing half-written stays"


@pytest.mark.slow
def test_without_a_home_and_in_ascii(tmp_path):
    environment = {key: value for key, value in os.environ.items() if key not in ("HOME", "XDG_CACHE_HOME", "LC_ALL")}
    ascii_only = {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    arguments = [sys.executable, "-m", "ssmlab", "run", DIGITS, *SMALL, "training.epochs=1", "--output", str(tmp_path)]
    done = subprocess.run(arguments, capture_output=True, env=environment | ascii_only)
    assert done.returncode == 0 and b"report: " in done.stdout, done.stderr.decode(errors="replace")
    assert not done.stderr

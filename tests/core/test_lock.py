"""One process at a time works in a folder; what a dead one left there is in nobody's way."""

import json
import os
import subprocess
import sys

import pytest

from ssmlab.core import lock
from ssmlab.core.errors import UserError
from ssmlab.core.lock import FILE, holder_of, locked, refuse_held

HOLDS = """
import sys, time
from pathlib import Path
from ssmlab.core.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def other(tmp_path):
    """Another process that holds the lock."""
    with subprocess.Popen([sys.executable, "-c", HOLDS, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def written(folder, **changes):
    (folder / FILE).unlink(missing_ok=True)
    with locked(folder):
        found = json.loads((folder / FILE).read_text())
    (folder / FILE).write_text(json.dumps(found | changes))


def test_a_second_process_is_refused_with_the_firsts_number(other, tmp_path):
    assert holder_of(tmp_path)["pid"] == other.pid
    for attempt in (lambda: refuse_held(tmp_path), lambda: locked(tmp_path).__enter__()):
        with pytest.raises(UserError, match=f"is in use by process {other.pid} since .*kill {other.pid}"):
            attempt()
    assert [file.name for file in tmp_path.iterdir()] == [FILE]


def test_the_lock_of_a_killed_process_is_taken_over(other, tmp_path):
    other.kill()  # and not waited for: it is still listed, as a zombie
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
    assert (tmp_path / FILE).is_file() and holder_of(tmp_path) is None
    with locked(tmp_path):
        assert holder_of(tmp_path)["pid"] == os.getpid()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("changes", [{"boot": "another"}, {"started": "1"}, {"pid": 2**22 + 1, "started": None}])
def test_after_a_boot_or_with_a_number_used_again_it_is_stale(tmp_path, changes):
    written(tmp_path)
    assert holder_of(tmp_path) is not None
    written(tmp_path, **changes)
    assert holder_of(tmp_path) is None
    refuse_held(tmp_path)


def test_of_another_machine_the_last_sign_of_life_counts(tmp_path):
    written(tmp_path, host="elsewhere")
    with pytest.raises(UserError, match=r"by process \d+ on elsewhere, seen 0\.\d s ago; .*delete that file"):
        refuse_held(tmp_path)
    silent = (tmp_path / FILE).stat().st_mtime - lock.SILENT_SECONDS - 1
    os.utime(tmp_path / FILE, (silent, silent))
    with locked(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "SIGN_SECONDS", 0.01)
    with locked(tmp_path):
        os.utime(tmp_path / FILE, (0, 0))
        for _ in range(500):
            if (tmp_path / FILE).stat().st_mtime > 0:
                return
            subprocess.run(["sleep", "0.01"], check=True)
    pytest.fail("the lock's time was not set")


@pytest.mark.parametrize("content", ["", "[", "[]", "{}", '{"host": 1}'])
def test_damaged_locks_hold_nothing(tmp_path, content):
    (tmp_path / FILE).write_text(content)
    with locked(tmp_path):
        assert holder_of(tmp_path)["pid"] == os.getpid()


def test_where_there_are_no_links(tmp_path, monkeypatch):
    def none(*_):
        raise PermissionError("not here")

    monkeypatch.setattr("os.link", none)
    with locked(tmp_path):
        assert holder_of(tmp_path)["pid"] == os.getpid()
        with pytest.raises(UserError, match="in use"):
            refuse_held(tmp_path)
    assert not list(tmp_path.iterdir())

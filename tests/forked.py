"""`python -W error -m ssmlab ARGUMENTS` in a process that begins with torch imported.

It is forked from one that has imported torch and nothing else, which takes milliseconds where a fresh interpreter takes
two seconds. What is said about imports and the start of an interpreter needs a fresh one.
"""

import json
import os
import runpy
import subprocess
import sys
import tempfile
import traceback
from functools import cache
from pathlib import Path


def ssmlab(*arguments: str, folder: Path) -> subprocess.CompletedProcess:
    """Run it in a folder; where processes cannot fork, in a fresh interpreter."""
    command = [sys.executable, "-W", "error", "-m", "ssmlab", *arguments]
    if not hasattr(os, "fork"):
        return subprocess.run(command, capture_output=True, text=True, cwd=folder)
    server = _server()
    with tempfile.TemporaryDirectory() as outputs:
        request = {"arguments": arguments, "folder": str(folder), "outputs": outputs, "environment": dict(os.environ)}
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        code = int(server.stdout.readline())
        texts = [Path(outputs, name).read_text() for name in ("1", "2")]
    return subprocess.CompletedProcess(command, code, *texts)


@cache
def _server() -> subprocess.Popen:
    command = [sys.executable, "-W", "error", __file__]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _serve() -> None:
    import torch  # noqa: F401

    sys.path.pop(0)  # the folder of this file
    for line in sys.stdin:
        child = os.fork()
        if not child:
            _run(json.loads(line))
        sys.stdout.write(f"{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\n")
        sys.stdout.flush()


def _run(request: dict) -> None:
    for number in (1, 2):
        os.dup2(os.open(f"{request['outputs']}/{number}", os.O_WRONLY | os.O_CREAT), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    sys.argv = ["ssmlab", *request["arguments"]]
    code = 0
    try:
        runpy.run_module("ssmlab", run_name="__main__", alter_sys=True)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    _serve()

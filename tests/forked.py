"""Python processes that begin with torch imported.

They are forked from one that has imported torch and nothing else, which takes milliseconds where a fresh interpreter
takes two seconds. What is said about imports, threads and the start of an interpreter needs a fresh one.
"""

import json
import os
import subprocess
import sys
import tempfile
import traceback
from functools import cache
from pathlib import Path


def ssmlab(*arguments: str, folder: Path) -> subprocess.CompletedProcess:
    """`python -W error -m ssmlab ARGUMENTS` in a folder."""
    return python(
        "import runpy; runpy.run_module('ssmlab', run_name='__main__', alter_sys=True)", *arguments, folder=folder
    )


def python(code: str, *arguments: str, folder: Path | None = None, **environment: str) -> subprocess.CompletedProcess:
    """`python -W error -c CODE ARGUMENTS`; where processes cannot fork, in a fresh interpreter."""
    command = [sys.executable, "-W", "error", "-c", code, *arguments]
    environment = os.environ | environment
    folder = folder or Path.cwd()
    if not hasattr(os, "fork"):
        return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)
    server = _server()
    with tempfile.TemporaryDirectory() as outputs:
        request = {"code": code, "arguments": arguments, "folder": str(folder), "environment": environment}
        server.stdin.write(json.dumps(request | {"outputs": outputs}) + "\n")
        server.stdin.flush()
        returned = int(server.stdout.readline())
        texts = [Path(outputs, name).read_text() for name in ("1", "2")]
    return subprocess.CompletedProcess(command, returned, *texts)


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
    sys.argv = ["-c", *request["arguments"]]
    code = 0
    try:
        exec(compile(request["code"], "<string>", "exec"), {"__name__": "__main__"})
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

"""Runs killed, without room, damaged and started twice, and hostile files for every reader: one line for each.

    python tests/sweeps.py [kills|moments|room|disk|cuts|twice|hostile ...] [--kinds images,language] [--count N]

A trial is a process of its own, forked from one that has imported everything. It must end with the bits of a run that
nothing disturbed, or with one line and exit code 1 or 2, and leave nothing half-written behind. What does not is
printed, with what repeats it; the exit code is then 1.
"""

import argparse
import errno
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

import numpy as np

SMALL = ["--smoke", "training.epochs=2", "evaluation.throughput_repeats=1", "evaluation.bootstrap=100"]
LANGUAGE = ["data.limit=16", "training.batch_size=8", "data.length=32", "training.checkpoint_steps=1"]
KINDS = {  # a recipe and its changes; {folder} holds what `material` makes
    "images": ["run", "classification/digits_resnet18_vs_hybrid", *SMALL, "data.limit=16", "training.batch_size=8",
               "models=[{name='resnet_test'}]", "training.checkpoint_steps=1", "evaluation.samples=2",
               "evaluation.throughput_batch=4"],
    "language": ["run", "language/text", *SMALL, *LANGUAGE, "models=[{name='mamba_lm_test'}]", "training.keep=best"],
    "lora": ["run", "language/text", *SMALL, *LANGUAGE, "models=[{name='mamba_lm_test'}]", "lora=all"],
    "labels": ["run", "language/classify_text", *SMALL, "data.limit=24", "training.batch_size=8",
               "models=[{name='mamba_lm_test'}]", "training.checkpoint_steps=1"],
    "synthetic": ["run", "language/state_tracking", *SMALL, "training.checkpoint_steps=1", "data.examples=32",
                  "models=[{name='mamba_lm_test'}]"],
    "masks": ["run", "segmentation/own_folder", "--smoke", "training.checkpoint_steps=2"],
    "pairs": ["run", "translation/own_files", "--smoke", "training.checkpoint_steps=2",
              "models=[{name='translation_hybrid'}]"],
    "stream": ["run", "language/text", *SMALL, *LANGUAGE, "models=[{name='mamba_lm_test'}]", "data.stream=true",
               "data.path={folder}/text.txt", "data.buffer=8"],
    "shards": ["run", "classification/own_folder", *SMALL, "data.limit=16", "training.batch_size=8", "data.buffer=8",
               "models=[{name='resnet_test'}]", "data.path={folder}/shards", "evaluation.samples=2",
               "training.min_steps=0", "data.image_size=8", "training.checkpoint_steps=1"],
    "several": ["run", "classification/own_folder", *SMALL, "data.path={folder}/several.npz", "data.image_size=8",
                "training.batch_size=8", "models=[{name='resnet_test'}]", "training.checkpoint_steps=2",
                "evaluation.samples=2"],
    "folds": ["run", "medical/five_folds", *SMALL, "data.limit=24", "data.image_size=8", "training.batch_size=8",
              "models=[{name='resnet_test'}]", "training.checkpoint_steps=2", "evaluation.samples=2"],
    "captions": ["run", "vision_language/captions", "--smoke", "data.limit=16", "evaluation.answers=2",
                 "evaluation.retrieval=2", "training.checkpoint_steps=2"],
    "adapters": ["run", "adapt/lora_targets_language", *SMALL, "data.limit=16", "training.batch_size=8",
                 "models=[{label='projections',adapt='projections'}]", "training.checkpoint_steps=1"],
    "sweep": ["sweep", "language/text", *LANGUAGE[:3], "training.epochs=1", "models=[{name='mamba_lm_test'}]",
              "training.learning_rate=1e-3,2e-3", "--smoke"],
}  # fmt: skip
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod")
UNREAD = "checksums.json config.json preprocess.json model.safetensors report.html best.toml"  # by `ssmlab report`
RECORD = ("task", "model", "split", "class", "step", "metric", "value", "unit", "n", "spread", "seed")
CLOCK = re.compile("second|runtime|started|finished|command|commit")  # in the keys of JSON files
TIMES = ("second", "bytes", "tokens/s", "images/s", "pairs/s", "characters/s", "sentences/s")


def changed_path(event: str, arguments: tuple) -> str:
    """The path that a call of the interpreter's is about to change, or ""."""
    if event == "open":
        path, mode, flags = arguments
        writes = (
            any(letter in mode for letter in "wax+") if isinstance(mode, str) else flags & (os.O_WRONLY | os.O_RDWR)
        )
        return str(path) if writes and not isinstance(path, int) else ""
    return str(arguments[0]) if event in CHANGES else ""


class Trial:
    """A command in a forked process, with a fault at one of its changes of files below a folder."""

    def __init__(
        self, command: list[str], folder: Path, *, at: int = 0, fault: str = "", seconds: float = 0.0, bytes: int = 0
    ):
        self.command, self.folder = command, folder
        self.at, self.fault, self.seconds, self.bytes = at, fault, seconds, bytes
        self.log = (folder.parent.parent if fault == "filled" else folder.parent) / f"{folder.name}.log"
        self.pid = os.fork()
        if not self.pid:
            self._child()

    def _child(self) -> None:
        code = 70
        try:
            with open(self.log, "wb", buffering=0) as log:
                os.dup2(log.fileno(), 1)
                os.dup2(log.fileno(), 2)
            os.setpgid(0, 0)
            self.seen, root, names = 0, str(self.folder), []

            def hook(event, arguments):
                if root in (path := changed_path(event, arguments)):
                    self.seen += 1
                    names.append(re.sub("[0-9]+", "#", Path(path).name))
                    if self.fault == "kill" and self.seen == self.at:
                        os.kill(os.getpid(), signal.SIGKILL)
                    if self.fault == "filled" and self.seen == self.at:
                        fill(self.folder.with_name("ballast"))
                    if self.fault == "full" and self.seen >= self.at and event in ("open", "os.mkdir"):
                        raise OSError(errno.ENOSPC, "No space left on device", arguments[0])

            sys.addaudithook(hook)
            if self.bytes:
                resource.setrlimit(resource.RLIMIT_AS, (self.bytes, self.bytes))
            if self.seconds:
                signal.setitimer(signal.ITIMER_REAL, self.seconds)
            from ssmlab.cli.main import main

            try:
                main(self.command)
                code = 0
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else 0
            if self.fault == "count":
                self.log.with_suffix(".count").write_text("\n".join(names))
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def wait(self, seconds: float = 300.0) -> tuple[int, str]:
        """The exit code, negative for a signal, and what was printed."""
        end = time.monotonic() + seconds
        while True:
            done, status = os.waitpid(self.pid, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status), self.log.read_text("utf-8", "replace")
            if time.monotonic() > end:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                return 124, self.log.read_text("utf-8", "replace")
            time.sleep(0.02)


def fill(path: Path) -> None:
    """Write a file until its disk is full."""
    with open(path, "wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass


def material(folder: Path) -> None:
    """What the kinds of run read."""
    from data.test_stream import write_tars

    (folder / "text.txt").write_text("".join(f"line {i}: to be, or not to be. {'so ' * (i % 9)}\n" for i in range(900)))
    write_tars(folder / "shards", 60, 2)
    rng, arrays = np.random.default_rng(0), {}
    for part, count in (("train", 24), ("val", 12), ("test", 12)):
        arrays[f"{part}_images"] = rng.integers(0, 255, (count, 8, 8), dtype=np.uint8)
        arrays[f"{part}_labels"] = rng.integers(0, 2, (count, 3)).astype(np.uint8)
    np.savez(folder / "several.npz", **arrays)


def command_of(kind: str, given: Path, output: Path) -> list[str]:
    """The command line of a kind of run."""
    named = [] if KINDS[kind][0] == "sweep" else ["name=one"]
    return [word.format(folder=given) if "{folder}" in word else word for word in KINDS[kind]] + [
        *named,
        "--output",
        str(output),
    ]


def contents(output: Path) -> dict:
    """What must be the same after a trial: every file but pages, plots and sums, without times and folders' names."""
    found: dict = {}
    for path in sorted(filter(Path.is_file, output.rglob("*"))):
        name = path.relative_to(output).as_posix()
        # "seconds" is in the names of what was reached at equal times
        if path.suffix in (".svg", ".html") or path.name == "checksums.json" or "seconds" in name or "logs/" in name:
            continue
        content: Any = path.read_bytes().replace(os.fsencode(output), b"OUTPUT")
        if path.name == "records.jsonl":
            rows = [json.loads(line) for line in content.splitlines()]
            rows = [row for row in rows if not any(word in f"{row['unit']} {row['metric']}" for word in TIMES)]
            content = [{key: row.get(key) for key in RECORD} for row in rows]
        elif path.suffix == ".jsonl":
            content = [without_times(json.loads(line)) for line in content.splitlines()]
        elif path.suffix == ".json":
            content = without_times(json.loads(content))
        found[name] = content
    return found


def without_times(content: Any) -> Any:
    """What a JSON file holds without the times in it, and what the command was."""
    if isinstance(content, dict):
        return {key: without_times(value) for key, value in content.items() if not CLOCK.search(key)}
    return [without_times(value) for value in content] if isinstance(content, list) else content


def leftovers(output: Path) -> list[str]:
    """Hidden files that stay besides the mark of a run, and checkpoints."""
    hidden = [path for path in output.rglob(".*") if path.name != ".ssmlab-run"]
    return list(map(str, [*hidden, *output.rglob("checkpoint-*")]))


def different(output: Path, whole: dict) -> str:
    """In what a run is another one than the undisturbed one, or ""."""
    now = contents(output)
    names = [name for name in sorted(whole.keys() | now.keys()) if now.get(name) != whole.get(name)]
    left = leftovers(output)
    return f"other {', '.join(names[:4])}" if names else f"left behind {', '.join(left[:4])}" if left else ""


def one_line(code: int, text: str, codes: tuple[int, ...] = (1, 2)) -> str:
    """What is wrong with how a command ended that is to end with an error, or ""."""
    if "Traceback" in text:
        return "a traceback"
    told = [line for line in text.splitlines() if line.startswith("ssmlab: ")]
    return "" if code in codes and len(told) == 1 else f"exit code {code}, {len(told)} lines of error"


class Sweep:
    """All trials of a kind of run, and what was found."""

    def __init__(self, kind: str, work: Path, given: Path, seed: int):
        self.kind, self.work, self.given = kind, work / kind, given
        self.random = random.Random(f"{kind} {seed}")
        self.counts: Counter = Counter()
        self.faults: list[str] = []
        self.work.mkdir()
        trial = Trial(command_of(kind, given, self.work / "whole"), self.work / "whole", fault="count")
        began = time.monotonic()
        code, text = trial.wait()
        self.seconds = time.monotonic() - began
        if code:
            raise SystemExit(f"{kind}: the undisturbed run ended with {code}\n{text[-3000:]}")
        self.names = trial.log.with_suffix(".count").read_text().split("\n")
        self.changes = len(self.names)
        self.whole = contents(self.work / "whole")
        kinds = f"{self.changes} changes of {len(set(self.names))} kinds of file"
        print(f"{kind}: {kinds} in {self.seconds:.1f} s, {len(self.whole)} files compared", flush=True)

    def note(self, what: str, trial: str, fault: str, text: str = "") -> None:
        """Count a trial; a fault is kept and printed."""
        self.counts[what, not fault] += 1
        if (done := self.counts[what, True] + self.counts[what, False]) % 4 == 0:
            print(f"{self.kind}: {what}: {done} trials", flush=True)
        if fault:
            self.faults.append(f"{self.kind}, {trial}: {fault}")
            print("FAULT", self.faults[-1], *text.splitlines()[-6:], sep="\n    ", flush=True)

    def again(self, what: str, trial: str, output: Path) -> None:
        """The same command after a fault must end with the bits of the undisturbed run."""
        code, text = Trial(command_of(self.kind, self.given, output), output).wait()
        if code == 2 and "already holds a run (finished" in text:  # it was over but for the end of the program
            code = 0
        fault = f"the same command ended with {code}" if code else different(output, self.whole)
        self.note(what, trial, fault, text)
        shutil.rmtree(output, ignore_errors=True)

    def spread(self, count: int) -> list[int]:
        """So many of the changes of files: one of every kind of file as far as that goes, the others over the run."""
        kinds: dict[str, list[int]] = {}
        for at, name in enumerate(self.names, 1):
            kinds.setdefault(name, []).append(at)
        chosen = {
            self.random.choice(places) for places in self.random.sample([*kinds.values()], min(count, len(kinds)))
        }
        others = [at for at in range(1, self.changes + 1) if at not in chosen]
        more = np.linspace(0, len(others) - 1, min(count, self.changes) - len(chosen)).round().astype(int)
        return sorted(chosen | {others[i] for i in more})

    def kills(self, count: int) -> None:
        """At `count` of the changes of files."""
        for at in self.spread(count):
            output = self.work / f"kill{at}"
            code, text = Trial(command_of(self.kind, self.given, output), output, at=at, fault="kill").wait()
            if code != -signal.SIGKILL:
                self.note("kills", f"change {at}", f"was not killed ({code})", text)
            else:
                self.again("kills", f"killed at change {at}", output)

    def moments(self, count: int) -> None:
        """At random moments; half of them twice."""
        for i in range(count):
            output = self.work / f"moment{i}"
            for _ in range(1 + i % 2):
                seconds = self.random.uniform(0.05, self.seconds)
                code, text = Trial(command_of(self.kind, self.given, output), output, seconds=seconds).wait()
                if code not in (0, -signal.SIGALRM) and "already holds" not in text:
                    self.note("moments", f"after {seconds:.2f} s", f"ended with {code}", text)
            self.again("moments", f"killed after {seconds:.2f} s", output)

    def room(self, count: int) -> None:
        """No file can be opened for writing from a change on; then there is room."""
        for at in self.spread(count):
            output = self.work / f"full{at}"
            code, text = Trial(command_of(self.kind, self.given, output), output, at=at, fault="full").wait()
            if code == 0:  # nothing was opened any more
                self.note("room", f"full from change {at} on", different(output, self.whole))
                continue
            fault = one_line(code, text, (1,)) or ("" if "no space left" in text else "another message")
            if fault:
                self.note("room", f"full from change {at} on", fault, text)
            else:
                self.again("room", f"full from change {at} on", output)

    def disk(self, count: int) -> None:
        """A real disk of 64 MB is full from a change on; then there is room. Needs the right to mount."""
        place = self.work / "disk"
        place.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(place)], check=True)
        try:
            for at in self.spread(count):
                output = place / f"full{at}"
                code, text = Trial(command_of(self.kind, self.given, output), output, at=at, fault="filled").wait()
                (place / "ballast").unlink()
                fault = one_line(code, text, (1,)) or ("" if "no space left" in text else "another message")
                if code == 0:
                    self.note("disk", f"filled at change {at}", different(output, self.whole))
                elif fault:
                    self.note("disk", f"filled at change {at}", fault, text)
                else:
                    self.again("disk", f"filled at change {at}", output)
                shutil.rmtree(output, ignore_errors=True)
        finally:
            subprocess.run(["umount", str(place)], check=True)

    def cuts(self, count: int) -> None:
        """Files of the finished run cut, zeroed, changed: --check names each, and no reader ends with a traceback."""
        files = [path for path in sorted((self.work / "whole").rglob("*"))
                 if path.is_file() and path.suffix in (".toml", ".json", ".jsonl", ".csv", ".safetensors", ".png")
                 and not {"plots", "logs"} & set(path.parts)]  # fmt: skip
        for i in range(count):
            output = self.work / f"cut{i}"
            shutil.copytree(self.work / "whole", output)
            runs = [path.parent for path in output.rglob("recipe.toml")]
            path = output / files[i % len(files)].relative_to(self.work / "whole")
            content = path.read_bytes()
            at = self.random.randrange(max(1, len(content)))
            how = self.random.choice(["cut", "zeroed", "flipped"])
            damaged = {
                "cut": content[:at],
                "zeroed": content[:at] + bytes(min(64, len(content) - at)) + content[at + 64 :],
                "flipped": content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :],
            }[how]
            if damaged == content:
                damaged = content[:at]
            path.write_bytes(damaged)
            trial = f"{path.relative_to(output)} {how} at {at}"
            run = next((folder for folder in runs if folder in path.parents), None)
            if run is None:
                continue
            code, text = Trial(["run", "--check", str(run)], output).wait()
            fault = "" if code == 2 and path.name in text and "Traceback" not in text else f"--check ended with {code}"
            for command in (["report", str(run)], ["run", str(run), "--resume"]):
                code, said = Trial(command, output).wait()
                if "Traceback" in said or code not in (0, 2):
                    fault = fault or f"{command[0]} ended with {code}"
                elif code == 0 and command[0] == "report" and path.name not in (said + UNREAD):
                    fault = fault or "report says nothing of it"
                elif code == 0 and command[0] == "run" and path.name not in ("report.html", "checksums.json"):
                    fault = fault or "--resume is content with it"
                text += said
            self.note("cuts", trial, fault, text)
            shutil.rmtree(output)

    def twice(self, count: int) -> None:
        """Two processes with the same command at once: one ends, the other is refused or finds a finished run."""
        for i in range(count):
            output = self.work / f"twice{i}"
            first = Trial(command_of(self.kind, self.given, output), output)
            time.sleep(self.random.uniform(0, self.seconds / 2))
            second = Trial(command_of(self.kind, self.given, output), output)
            second.log = output.parent / f"{output.name}.log"
            (one, text), (other, said) = first.wait(), second.wait()
            fault = (
                ""
                if sorted((one, other)) == [0, 2] and "Traceback" not in text + said
                else f"exit codes {one}, {other}"
            )
            self.note("twice", f"trial {i}", fault or different(output, self.whole), text + said)
            shutil.rmtree(output, ignore_errors=True)


def hostile(work: Path, count: int, seed: int, skip: int) -> tuple[Counter, list[str]]:
    """Damaged and odd files for every reader, trial `skip` to `count`."""
    from hostile_files import command, drawn, files

    counts, faults = Counter(), []
    good = files(work / "good")
    picture = work / "picture.png"
    picture.write_bytes(drawn(1))
    first = skip or -len(
        good
    )  # as they are: read without an error, so that what is told of others is told of the damage
    for i in range(first, count):
        kind = list(good)[i % len(good)]
        root, name = good[kind]
        folder = work / f"hostile{i}"
        shutil.copytree(root, folder)
        how = spoil(folder / name, random.Random(f"{seed} {i}")) if i >= 0 else "as it is"
        said = command(kind, folder, name, picture)
        began = time.monotonic()
        code, text = Trial(said, folder, bytes=8 << 30).wait(60)
        bad = "Traceback" in text or code not in (0, 1, 2) or (code and not text.strip())
        bad |= i < 0 and code != 2 * (kind == "recipe")  # of which the data are missing
        counts[f"{kind}, exit code {code}", not bad] += i >= 0 or bad
        if bad:
            faults.append(f"{kind}, trial {i}, {how}: exit code {code} after {time.monotonic() - began:.0f} s")
            print("FAULT", faults[-1], " ".join(said), *text.splitlines()[-6:], sep="\n    ", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        if i % 50 == 49:
            print(f"hostile: {i + 1} files, {len(faults)} wrong", flush=True)
    return counts, faults


def spoil(path: Path, rng: random.Random) -> str:
    """Damage a file: cut, zeroed, bits flipped, a piece doubled, numbers made huge, other content."""
    content = bytearray(path.read_bytes())
    how = rng.choice(["cut", "zeroed", "flipped", "doubled", "huge", "other", "empty", "header"])
    at = rng.randrange(max(1, len(content)))
    if how == "cut":
        del content[at:]
    elif how == "zeroed":
        content[at : at + 32] = bytes(len(content[at : at + 32]))
    elif how == "flipped":
        for _ in range(8):
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    elif how == "doubled":
        content[at:at] = content[at : at + 200]
    elif how == "huge":
        digits = [i for i, byte in enumerate(content) if 48 <= byte < 58]
        at = rng.choice(digits) if digits else at
        content[at:at] = b"99999999999999999999"
    elif how == "header":
        for i in range(min(32, len(content))):
            if rng.random() < 0.3:
                content[i] = rng.randrange(256)
    elif how == "empty":
        content.clear()
    else:
        content = bytearray(
            rng.choice([b"\x80\x04\x95", b"PK\x03\x04", b"{" * 5000, b"\xff\xfe" * 50, rng.randbytes(300)])
        )
    path.write_bytes(bytes(content))
    return f"{how} at {at}"


def main() -> None:
    """Run what is asked for, print the counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    counts = {"kills": 40, "moments": 10, "room": 20, "cuts": 30, "twice": 2, "hostile": 300}
    parser.add_argument("what", nargs="*", default=list(counts), help="disk, which mounts one, only by name")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--count", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--skip", type=int, default=0, help="of hostile files so many, which another call has tried")
    options = parser.parse_args()
    import ssmlab.cli.main
    import ssmlab.experiments.run
    import ssmlab.experiments.sweep
    import ssmlab.reports.html
    import ssmlab.tasks.shared.experiment
    from ssmlab.tasks.table import TASKS

    for row in TASKS.values():
        for part in ("data", "experiment", "report"):
            __import__(f"{row.folder}.{part}")
    place = "/dev/shm" if Path("/dev/shm").is_dir() else None
    found: Counter = Counter()
    faults: list[str] = []
    with tempfile.TemporaryDirectory(dir=place) as folder:
        given = Path(folder) / "given"
        given.mkdir()
        if set(options.what) - {"hostile"}:
            child = os.fork()
            if not child:
                material(given)
                os._exit(0)
            os.waitpid(child, 0)
            for kind in options.kinds.split(","):
                sweep = Sweep(kind, Path(folder), given, options.seed)
                for what in options.what:
                    if what != "hostile":
                        getattr(sweep, what)(options.count or counts.get(what, 20))
                        numbers = {right: sweep.counts[what, right] for right in (True, False)}
                        print(f"{kind}: {what}: {numbers[True]} right, {numbers[False]} wrong", flush=True)
                        found.update({(what, right): n for right, n in numbers.items() if n})
                faults += sweep.faults
                shutil.rmtree(sweep.work)
        if "hostile" in options.what:
            by_name, wrong = hostile(Path(folder), options.count or counts["hostile"], options.seed, options.skip)
            for (name, right), n in sorted(by_name.items()):
                found["hostile", right] += n
                print(f"hostile: {name}: {n} {'handled' if right else 'WRONG'}")
            faults += wrong
    for (what, right), n in sorted(found.items()):
        print(f"{what}: {n} {'right' if right else 'WRONG'}")
    print(*faults, sep="\n")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()

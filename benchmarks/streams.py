"""Training on data larger than memory: peak of memory, a kill in mid-epoch, and a resume to the same bits.

    python benchmarks/streams.py [--gigabytes 2] [--images 200000] [--steps 500] [--folder FOLDER]

A text of so many bytes and so many images, in tar shards and in Parquet, are generated below FOLDER and deleted again.
Each is trained on for so many steps with a small model, three times: whole, killed half way, and gone on with. The peak
is that of the whole process (VmHWM), beside that of the same command on data of a few KiB.
"""

import argparse
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import load_file

WORDS = 5000
TEXT = ["language/text", "data.length=128", "models=[{name='mamba_lm_test'}]"]
IMAGES = ["classification/own_folder", "data.image_size=16", "models=[{name='resnet_test'}]"]
COMMON = ["seeds=[0]", "training.min_steps=0", "training.epochs=1", "training.keep=last", "training.batch_size=32",
          "evaluation.throughput_repeats=1", "evaluation.bootstrap=100", "device=cpu", "data.stream=true"]  # fmt: skip


def write_text(path: Path, size: int) -> None:
    """Lines of words of a vocabulary, some of them long, in a random order."""
    random = np.random.default_rng(0)
    words = np.array(["".join(chr(97 + c) for c in random.integers(0, 26, n)) for n in random.integers(2, 10, WORDS)])
    lengths = random.geometric(0.05, 50_000)
    chosen = words[random.zipf(1.3, lengths.sum()) % WORDS]
    lines = np.array([" ".join(part) for part in np.split(chosen, np.cumsum(lengths)[:-1])], object)
    written = 0
    with open(path, "wb") as file:
        while written < size:
            block = "\n".join(lines[random.integers(0, len(lines), 20_000)]) + "\n"
            written += file.write(block.encode())


def encoded(number: int) -> tuple[bytes, int]:
    """A small PNG whose colour says its class, and the class."""
    random, label = np.random.default_rng(number), number % 10
    pixels = random.integers(0, 100, (16, 16, 3)) + 15 * label
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue(), label


def write_tars(folder: Path, count: int) -> None:
    """Shards in WebDataset's form."""
    per = max(1, count // 40)
    for first in range(0, count, per):
        with tarfile.open(folder / f"train-{first // per:05d}.tar", "w") as tar:
            for number in range(first, min(first + per, count)):
                content, label = encoded(number)
                for name, data in ((f"{number:08d}.png", content), (f"{number:08d}.cls", str(label).encode())):
                    info = tarfile.TarInfo(name)
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))


def write_parquet(folder: Path, count: int) -> None:
    """Files of groups of a thousand rows."""
    import pyarrow as pa
    from pyarrow import parquet

    per = max(1, count // 20)
    for first in range(0, count, per):
        rows = [encoded(number) for number in range(first, min(first + per, count))]
        table = pa.table(
            {"image": [{"bytes": data, "path": None} for data, _ in rows], "label": [row[1] for row in rows]}
        )
        parquet.write_table(table, folder / f"train-{first // per:05d}.parquet", row_group_size=1000)


def run(arguments: list[str], output: Path, stop_after: int = 0) -> tuple[int, float, str]:
    """Run the command; with `stop_after` kill it once there is a checkpoint of that step or a later one.

    Returns:
        the peak of its memory in bytes, seconds, and what it said.
    """
    command = [sys.executable, "-m", "ssmlab", "run", *arguments, "--output", str(output)]
    began, peak = time.perf_counter(), 0
    with (
        tempfile.TemporaryFile("w+") as said,
        subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT) as process,
    ):
        while process.poll() is None:
            try:
                status = Path(f"/proc/{process.pid}/status").read_text()
                peak = max([peak, *(int(line.split()[1]) << 10 for line in status.splitlines() if "VmHWM" in line)])
            except OSError:
                pass
            steps = [int(path.name.split("-")[1]) for path in output.glob("*/models/*/checkpoints/checkpoint-*")]
            if stop_after and max(steps, default=0) >= stop_after:
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.05)
        process.wait()
        said.seek(0)
        text = said.read()
    if process.returncode not in (0, -signal.SIGKILL):
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}\n{text[-3000:]}")
    return peak, time.perf_counter() - began, text


def bits(folder: Path) -> tuple[dict, list]:
    """The weights and the records of a run, without times."""
    (weights,) = folder.glob("*/models/*/model.safetensors")
    own = ("second", "bytes", "tokens/s", "images/s")
    rows = [json.loads(line) for line in (weights.parent / "records.jsonl").read_text().splitlines()]
    kept = [{k: row.get(k) for k in ("metric", "value", "split", "step")} for row in rows
            if not any(word in str(row.get("unit")) for word in own)]  # fmt: skip
    return load_file(weights), kept


def measure(name: str, recipe: list[str], data: Path, small: Path, work: Path, steps: int) -> None:
    """Whole, killed and resumed; prints a line."""
    checkpoints = [f"training.checkpoint_steps={max(1, steps // 5)}", f"data.limit={32 * steps}", "name=run"]
    base, _, _ = run([*recipe, *COMMON, f"data.path={small}", "data.limit=64", "name=run"], work / "small")
    arguments = [*recipe, *COMMON, f"data.path={data}", *checkpoints]
    peak, seconds, said = run(arguments, work / "whole")
    run(arguments, work / "cut", stop_after=steps // 2)
    resumed, again, _ = run(arguments, work / "cut")
    (weights, records), (other, others) = bits(work / "whole"), bits(work / "cut")
    same = all(np.array_equal(weights[key], other[key]) for key in weights) and records == others
    size = (
        sum(path.stat().st_size for path in data.rglob("*") if path.is_file()) if data.is_dir() else data.stat().st_size
    )
    print(*(line.strip() for line in said.splitlines() if "read in a stream" in line), sep="\n")
    print(
        f"{name}: {size / 2**30:.2f} GiB, {steps} steps in {seconds:.0f} s; peak {peak / 2**20:,.0f} MiB, resumed "
        f"{resumed / 2**20:,.0f} MiB ({again:.0f} s), on small data {base / 2**20:,.0f} MiB: "
        f"{(max(peak, resumed) - base) / 2**20:,.0f} MiB above; bits and records after the kill "
        f"{'the same' if same else 'DIFFER'}",
        flush=True,
    )
    if not same:
        raise SystemExit(1)
    shutil.rmtree(work)


def main() -> None:
    """Generate, measure, delete."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=2)
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--only", choices=("text", "tar", "parquet"))
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    kinds = {
        "text": (TEXT, lambda place, part: write_text(place / "text.txt", int(options.gigabytes * 1e9 * part))),
        "tar": (IMAGES, lambda place, part: write_tars(place, int(options.images * part))),
        "parquet": (IMAGES, lambda place, part: write_parquet(place, int(options.images * part))),
    }
    for name, (recipe, write) in kinds.items():
        if options.only not in (None, name):
            continue
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            places = [Path(folder) / "data", Path(folder) / "small"]
            for place, part in zip(
                places, (1, 0.0001 if name == "text" else max(0.002, 600 / options.images)), strict=True
            ):
                place.mkdir()
                write(place, part)
            measure(name, recipe, *places, Path(folder) / "work", options.steps)


if __name__ == "__main__":
    main()

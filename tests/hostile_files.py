"""A good example of every kind of file that is read, and the command that reads it: `sweeps.py` damages them."""

import gzip
import io
import json
import os
import pickle
import tarfile
import wave
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

PICTURES = {"png": "PNG", "jpg": "JPEG", "tif": "TIFF", "gif": "GIF", "bmp": "BMP", "webp": "WEBP", "ppm": "PPM"}
SHORT = ["--smoke", "training.epochs=1", "data.limit=16", "training.batch_size=8", "evaluation.throughput_repeats=1"]
TEXT = ["run", "language/text", *SHORT, "models=[{name='mamba_lm_test'}]", "data.length=32"]


def drawn(number: int, form: str = "PNG", size: int = 12) -> bytes:
    """A picture of its own."""
    pixels = np.random.default_rng(number).integers(0, 256, (size, size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


def files(root: Path) -> dict[str, tuple[Path, str]]:
    """By kind the folder that is a data set, a model or a run, and the file in it that is damaged."""
    found: dict[str, tuple[Path, str]] = {}

    def put(kind: str, contents: dict[str, bytes], which: str) -> None:
        for name, content in contents.items():
            path = root / kind / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        found[kind] = (root / kind, which)

    for ending, form in PICTURES.items():
        put(ending, {f"{c}/{i}.{ending}": drawn(i + 10 * (c == "dog"), form) for c in ("cat", "dog") for i in range(6)},
            f"cat/3.{ending}")  # fmt: skip
    names = [f"{part}/{c}/{i}.png" for part in ("train", "test") for c in "ab" for i in range(6)]
    tree = {name: drawn(number) for number, name in enumerate(names)}
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in tree.items():
            archive.writestr(name, content)
    put("zip", {"data.zip": packed.getvalue()}, "data.zip")
    rows = "file,label\n" + "".join(f"{i}.png,{'ab'[i % 2]}\n" for i in range(20))
    put("table", {"labels.csv": rows.encode()} | {f"{i}.png": drawn(i) for i in range(20)}, "labels.csv")
    arrays = {}
    for part in ("train", "val", "test"):
        arrays[f"{part}_images"] = np.random.default_rng(1).integers(0, 255, (20, 8, 8), dtype=np.uint8)
        arrays[f"{part}_labels"] = (np.arange(20) % 2).astype(np.uint8)[:, None]
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    put("npz", {"data.npz": buffer.getvalue()}, "data.npz")
    batch = {b"data": np.zeros((20, 3072), np.uint8), b"labels": [i % 10 for i in range(20)],
             b"filenames": [b"%d.png" % i for i in range(20)]}  # fmt: skip
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    meta = {b"label_names": [b"class%d" % i for i in range(10)]}
    put("cifar", {n: pickle.dumps(batch, 2) for n in names} | {"batches.meta": pickle.dumps(meta, 2)}, "data_batch_2")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for i in range(40):
            for name, content in ((f"{i}.png", drawn(i)), (f"{i}.json", json.dumps({"label": i % 2}).encode())):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    put("tar", {"train.tar": packed.getvalue()}, "train.tar")
    try:
        import pyarrow as pa
        from pyarrow import parquet

        packed = io.BytesIO()
        parquet.write_table(
            pa.table({"image": [drawn(i) for i in range(40)], "label": [i % 2 for i in range(40)]}), packed
        )
        put("parquet", {"train.parquet": packed.getvalue()}, "train.parquet")
    except ImportError:
        pass
    random = np.random.default_rng(0)

    def sound() -> bytes:
        written = io.BytesIO()
        with wave.open(written, "wb") as file:
            file.setnchannels(1), file.setsampwidth(2), file.setframerate(8000)
            file.writeframes(random.integers(-999, 999, 800).astype("<i2").tobytes())
        return written.getvalue()

    put("wav", {f"{c}/{i}.wav": sound() for c in "ab" for i in range(30)}, "a/2.wav")  # equal ones would be in one part
    genes, others = (
        "".join(f">{name} {i}\n{''.join(random.choice(list('ACGTN'), 15 + i))}\n" for i in range(30)).encode()
        for name in ("gene", "other")
    )
    put("fasta", {"a.fa": genes, "b.fa": others}, "a.fa")
    put(
        "fasta.gz",
        {"a.fa.gz": gzip.compress(genes), "b.fa.gz": gzip.compress(others)},
        "a.fa.gz",
    )
    parts = [f"{part}/{c}/{i}.txt" for part in ("train", "test") for c in "ab" for i in range(6)]
    put("labelled texts", {name: f"the text of {name}".encode() for name in parts}, "train/a/1.txt")
    chats = "".join(json.dumps({"prompt": f"{i}?", "response": f"{i}!"}) + "\n" for i in range(60))
    put("chats", {"a.jsonl": chats.encode()}, "a.jsonl")
    lines = "".join(json.dumps({"text": f"text {i} " * 20}) + "\n" for i in range(60))
    put("texts", {"a.jsonl": lines.encode()}, "a.jsonl")
    put("streamed texts", {"a.jsonl": lines.encode()}, "a.jsonl")
    put("tokens", {"a.bin": np.random.default_rng(0).integers(0, 256, 20_000).astype("<u2").tobytes()}, "a.bin")
    buffer = io.BytesIO()
    np.save(buffer, np.random.default_rng(0).integers(0, 256, 20_000).astype("<u2"))
    put("token array", {"a.npy": buffer.getvalue()}, "a.npy")
    pairs = "".join(f"a sentence {i}\tun phrase {i}\n" for i in range(80))
    put("pairs", {"pairs.en-fr.tsv": pairs.encode()}, "pairs.en-fr.tsv")
    masks = {f"images/{i}.png": drawn(i) for i in range(8)} | {f"masks/{i}.png": mask(i) for i in range(8)}
    put("masks", masks, "masks/3.png")
    put("recipe", {"my.toml": (b'task = "classify"\n[data]\npath = "nothing-here"\n[training]\nepochs = 2\n'
                               b'[[models]]\nname = "resnet_test"\n')}, "my.toml")  # fmt: skip
    _models(root, found)
    return found


def mask(number: int) -> bytes:
    """A mask of two labels."""
    buffer = io.BytesIO()
    Image.fromarray((np.random.default_rng(number).random((12, 12)) > 0.5).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def _models(root: Path, found: dict[str, tuple[Path, str]]) -> None:
    """A vision model, a language model and a finished run, made by the commands in another process."""
    root.mkdir(parents=True, exist_ok=True)
    child = os.fork()
    if not child:
        from ssmlab.experiments.run import run_recipe
        from ssmlab.tasks.recipe import load_recipe

        digits = [
            "data.limit=32",
            "training.epochs=1",
            "evaluation.samples=1",
            "evaluation.throughput_batch=4",
            "name=run",
        ]
        run_recipe(load_recipe("classification/digits_resnet18_vs_hybrid", digits, smoke=True), output=root)
        run_recipe(
            load_recipe(TEXT[1], [*(c for c in TEXT[2:] if c != "--smoke"), "name=text"], smoke=True), output=root
        )
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        raise SystemExit("the models to be damaged could not be made")
    model = "models/resnet_test"
    for name in ("config.json", "preprocess.json", "model.safetensors"):
        found[f"vision {name}"] = (root / "run", f"{model}/{name}")
        found[f"language {name}"] = (root / "text", f"models/mamba_lm_test/{name}")
    for name in ("run.json", "records.jsonl", "recipe.toml", f"{model}/predictions.csv", "checksums.json"):
        found[f"run's {name.rpartition('/')[2]}"] = (root / "run", name)


def command(kind: str, folder: Path, name: str, picture: Path) -> list[str]:
    """The command that reads the file of a kind in a copy of its folder."""
    path, out = folder / name, ["--output", str(folder / "out"), "name=one"]
    if kind.startswith("vision"):
        return ["classify", str(path.parent), str(picture)]
    if kind.startswith("language"):
        return ["generate", str(path.parent), "--prompt", "To be", "--max-tokens", "4"]
    if kind.startswith("run's"):
        return ["report", str(folder)]
    if kind == "recipe":
        return ["run", str(path), *out]
    if kind in ("tar", "parquet"):
        return ["run", "classification/own_folder", *SHORT, "models=[{name='resnet_test'}]", "data.image_size=8",
                f"data.path={folder}", "training.min_steps=0", *out]  # fmt: skip
    if kind in ("streamed texts", "tokens", "token array"):
        return [*TEXT, f"data.path={path}", "data.stream=true", *out]
    if kind == "texts":
        return [*TEXT, f"data.path={path}", *out]
    if kind == "pairs":
        return ["data", "check", str(path), "--source", "en", "--target", "fr"]
    if kind == "masks":
        return ["data", "check", str(folder), "--masks"]
    whole = kind in ("zip", "npz", "chats")
    return ["data", "check", str(path if whole else folder)]

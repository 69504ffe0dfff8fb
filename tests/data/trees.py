"""Folders as people have them, and what `ssmlab data check` and a run say about them."""

import json
import wave

import numpy as np
from PIL import Image
from typer.testing import CliRunner

from ssmlab.cli.data import app
from ssmlab.tasks.classify.data import load_images
from ssmlab.tasks.classify.recipe import Recipe
from ssmlab.tasks.classify_sequence.data import load_labelled
from ssmlab.tasks.classify_sequence.recipe import LabelledRecipe


def write(root, *names, content=None):
    """Files of their names' kinds, each with its own content."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng([*name.encode()])
        if content is not None:
            path.write_bytes(content)
        elif name.endswith((".txt", ".md", ".text", ".json")):
            path.write_text(f"the text of {name}")
        elif name.endswith(".wav"):
            with wave.open(str(path), "wb") as file:
                file.setparams((1, 2, 8000, 0, "NONE", ""))
                file.writeframes(rng.integers(-9000, 9000, 40).astype("<i2").tobytes())
        else:
            Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)).save(path)
    return root


def fill(root, folders, count, ending, first=0):
    return write(root, *(f"{folder}/{i}.{ending}" for folder in folders for i in range(first, first + count)))


def checked(root, *options):
    """What `data check` says."""
    result = CliRunner().invoke(app, ["check", str(root), "--json", *options])
    assert result.stdout.strip(), result.output
    return json.loads(result.stdout)


def loaded(root, kind="image", **data):
    """What run.json would say."""
    if kind == "image":
        models = [{"name": "resnet_test"}]
        return load_images(Recipe.model_validate({"data": {"path": str(root)} | data, "models": models})).describe
    models = [{"name": "mamba_lm_test"}]
    table = {"data": {"path": str(root), "kind": kind} | data, "models": models}
    return load_labelled(LabelledRecipe.model_validate(table)).describe


def agree(root, kind="image"):
    """(classes, counts, everything that was said), the same of both."""
    found, run = checked(root), loaded(root, kind)
    assert found["ok"], found["problems"]
    assert (found["classes"], found["counts"]) == (run["classes"], run["counts"])
    assert found["split_hash"] == run["split_hash"]
    said = " | ".join([*found["notes"], *found["warnings"]])
    assert all(note in said for note in run["notes"] if note.startswith("left out"))
    assert any("left out" in note for note in run["notes"]) == ("left out" in said)
    return found["classes"], found["counts"], said

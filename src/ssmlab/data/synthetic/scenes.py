"""Made pictures with questions and captions, as a stand-in for photographs that are not there."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

COLOURS = {"red": (220, 40, 40), "green": (40, 170, 60), "blue": (50, 80, 220), "yellow": (235, 215, 60)}
SHAPES = ("circle", "square", "triangle")
SIDES = ("left", "right")
SIDE = 64  # pixels


def generated_scenes(folder: Path, count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Records in LLaVA's form about pictures that are written into a folder: one shape of one colour, on one side.

    Args:
        folder: of the pictures; those that are there already are kept.
        count: of pictures; each has a question about its colour, one about its shape and a caption, in turn.
    """
    rng = np.random.default_rng([seed, 7])
    records = []
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        colour = list(COLOURS)[rng.integers(len(COLOURS))]
        shape, side = SHAPES[rng.integers(len(SHAPES))], SIDES[rng.integers(2)]
        size, height = int(rng.integers(10, 15)), int(rng.integers(16, SIDE - 16))
        name = f"scene_{seed}_{i}.png"
        if not (folder / name).is_file():
            picture = Image.new("RGB", (SIDE, SIDE), (240, 240, 240))
            _draw(picture, shape, COLOURS[colour], (SIDE // 4 if side == "left" else 3 * SIDE // 4, height), size)
            picture.save(folder / name)
        question, answer = (
            ("Which colour is it?", colour),
            ("Which shape is it?", shape),
            ("Describe the picture.", f"A {colour} {shape} on the {side}."),
        )[i % 3]
        turns = [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": answer}]
        records.append({"id": f"{seed}-{i}", "image": name, "conversations": turns})
    return records


def _draw(picture: Image.Image, shape: str, colour: tuple[int, int, int], at: tuple[int, int], size: int) -> None:
    x, y = at
    draw, box = ImageDraw.Draw(picture), (x - size, y - size, x + size, y + size)
    if shape == "circle":
        draw.ellipse(box, fill=colour)
    elif shape == "square":
        draw.rectangle(box, fill=colour)
    else:
        draw.polygon([(x, y - size), (x - size, y + size), (x + size, y + size)], fill=colour)

"""Two generated sets of images with masks, for trying things out: streets between houses, and cells.

shapes   30 colour images of 64 x 64: a street or two across a textured ground with houses; foreground = street
cells    24 grey images of 64 x 64: dark walls between cells; foreground = cell
"""

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

GENERATED = {"shapes": 30, "cells": 24}  # how many images
SIZE = 64


class GeneratedFiles:
    """The files of a generated set, with the interface of FolderFiles; every picture follows from its name alone."""

    def __init__(self, name: str):
        self.path, self.problems, self.ignored = Path(name), [], []
        self.folders = {"images", "masks"}
        self.files = {f"{folder}/{i:02}.png": i for folder in ("images", "masks") for i in range(GENERATED[name])}

    def read(self, name: str) -> bytes:
        number = self.files[name]
        if self.path.name == "shapes":
            rng = np.random.default_rng((1, number))
            ground = rng.uniform(60, 130, 3) + rng.normal(0, 18, (SIZE, SIZE, 1))
            image = Image.fromarray(np.clip(ground, 0, 255).astype(np.uint8))
            mask = Image.new("L", (SIZE, SIZE))
            painter, marker = ImageDraw.Draw(image), ImageDraw.Draw(mask)
            for _ in range(3):
                x, y = rng.integers(0, SIZE, 2)
                painter.rectangle((x, y, x + 9, y + 9), fill=tuple(int(v) for v in rng.integers(90, 230, 3)))
            for _ in range(int(rng.integers(1, 3))):
                a, b = rng.integers(0, SIZE, 2)
                line = [(0, int(a)), (SIZE, int(b))] if rng.random() < 0.5 else [(int(a), 0), (int(b), SIZE)]
                painter.line(line, fill=(170, 170, 172), width=9)
                marker.line(line, fill=255, width=9)
            mask = mask.filter(ImageFilter.GaussianBlur(0.7))
        else:
            rng = np.random.default_rng((2, number))
            centres = rng.uniform(0, SIZE, (14, 2))
            rows, columns = np.mgrid[:SIZE, :SIZE]
            distances = np.sort(np.hypot(rows[..., None] - centres[:, 0], columns[..., None] - centres[:, 1]), -1)
            inside = distances[..., 1] - distances[..., 0] > 2.5
            grey = np.where(inside, 170, 80) + rng.normal(0, 20, inside.shape)
            image = Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8))
            mask = Image.fromarray(inside.astype(np.uint8) * 255)
        buffer = io.BytesIO()
        (image if name.startswith("images") else mask).save(buffer, "PNG")
        return buffer.getvalue()

    def head(self, name: str, size: int = 16) -> bytes:
        return self.read(name)[:size]

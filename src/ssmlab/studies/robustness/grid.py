"""What the transformations do to a picture: a tile for every condition, as one PNG and for the page."""

import base64
import io

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from ssmlab.reports.markup import Html, el
from ssmlab.robustness.conditions import Condition

COLUMNS = 7
TILE, GAP, LINE = 128, 8, 16  # pixels of the PNG


def tiles(image: np.ndarray, key: int, conditions: list[Condition], seed: int) -> list[tuple[str, np.ndarray]]:
    """A picture (h, w, 3) uint8 under every condition, with titles."""
    x = torch.from_numpy(image.copy()).permute(2, 0, 1)[None]
    index = torch.tensor([key])
    return [(each.title, each.change(x, seed, index)[0].permute(1, 2, 0).numpy()) for each in conditions]


def tiles_png(shown: list[tuple[str, np.ndarray]]) -> bytes:
    """Rows of seven, the title below each tile."""
    rows = -(-len(shown) // COLUMNS)
    columns = min(COLUMNS, len(shown))
    width, height = columns * (TILE + GAP) + GAP, rows * (TILE + LINE + GAP) + GAP
    whole = Image.new("RGB", (width, height), "white")
    draw, font = ImageDraw.Draw(whole), ImageFont.load_default(10)
    for number, (title, picture) in enumerate(shown):
        x, y = GAP + number % COLUMNS * (TILE + GAP), GAP + number // COLUMNS * (TILE + LINE + GAP)
        whole.paste(_resized(picture), (x, y))
        while font.getlength(title) > TILE:  # cut where the tile ends
            title = title.removesuffix("…")[:-1] + "…"
        draw.text((x, y + TILE + 2), title, fill="black", font=font)
    return _encoded(whole)


def tiles_html(shown: list[tuple[str, np.ndarray]]) -> Html:
    """The tiles as a list that takes as many columns as there is room for."""
    items = []
    for title, picture in shown:
        small = picture.shape[0] < 100
        image = Image.fromarray(picture) if small else _resized(picture)
        source = f"data:image/png;base64,{base64.b64encode(_encoded(image)).decode()}"
        alt = f"The picture under {title}"
        items.append(el("li", el("img", src=source, alt=alt, class_="pixels" if small else None), el("p", title)))
    return el("ul", items, class_="samples")


def _resized(picture: np.ndarray) -> Image.Image:
    small = picture.shape[0] < TILE
    return Image.fromarray(picture).resize((TILE, TILE), Image.Resampling.NEAREST if small else Image.Resampling.BOX)


def _encoded(image: Image.Image) -> bytes:
    content = io.BytesIO()
    image.save(content, "PNG", optimize=True)
    return content.getvalue()

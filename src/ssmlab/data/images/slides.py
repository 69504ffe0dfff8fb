"""Tiles of whole slides, cut by OpenSlide into folders of pictures that are read as any other.

A tile is kept where enough of it is tissue: coloured, and not as bright as the glass around it. Tiles of one slide have
its name in groups.csv, so that they stay on one side of a split.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ssmlab.core.errors import DataError
from ssmlab.core.files import write_atomically, write_file
from ssmlab.core.progress import Progress
from ssmlab.core.text import csv_text

SUFFIXES = (".svs", ".ndpi", ".mrxs", ".scn", ".tif", ".tiff", ".vms", ".vmu", ".bif", ".svslide", ".dcm")
NEEDED = "whole slides need OpenSlide, which is not installed: pip install 'ssmlab[slides]'"
BRIGHT, PALE = 225, 15  # glass: grey values above, differences of colours below


def find_slides(paths: Sequence[Path]) -> list[tuple[Path, str]]:
    """Slides in files and folders, each with the folder that it lies in below what was given, "" for none.

    Raises:
        DataError: there is none.
    """
    found: list[tuple[Path, str]] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
            found += [(p, p.parent.relative_to(path).as_posix().removeprefix(".")) for p in inside]
        elif path.is_file():
            found.append((path, ""))
        else:
            raise DataError(f"{path}: no such file or folder")
    if not found:
        raise DataError(f"no whole slides in {', '.join(map(str, paths))}; expected {', '.join(SUFFIXES[:5])} ...")
    return found


def write_tiles(
    slides: Sequence[tuple[Path, str]], out: Path, *, size: int, mpp: float, tissue: float,
    progress: Progress | None = None,
) -> tuple[int, list[str]]:  # fmt: skip
    """Cut slides into tiles, `out/<folder>/<slide>_<x>_<y>.png`, next to a groups.csv with the columns file and slide.

    Args:
        slides: of `find_slides`; a folder is a class.
        size: of a tile in pixels. mpp: micrometres a pixel; 0: as scanned.
        tissue: the least share of a tile that is tissue.
    Returns:
        how many were written, and a problem for each slide that cannot be used.
    Raises:
        DataError: OpenSlide is not installed, or two slides have one name.
    """
    try:
        import openslide
    except ImportError:
        raise DataError(NEEDED) from None
    names = [f"{folder}/{path.stem}" for path, folder in slides]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise DataError(f"two slides are called {twice[0].lstrip('/')}; rename one, or cut them apart")
    progress = progress or Progress()
    rows, problems, written = [["file", "slide"]], [], 0
    progress.start("cutting tiles", len(slides), unit="slides")
    try:
        for done, (path, folder) in enumerate(slides, start=1):
            try:
                with openslide.OpenSlide(path) as slide:
                    for x, y, tile in _tiles(slide, size, mpp):
                        if _share_of_tissue(tile) >= tissue:
                            name = f"{folder}/{path.stem}_{x}_{y}.png".lstrip("/")
                            target = out / name
                            target.parent.mkdir(parents=True, exist_ok=True)
                            write_file(target, lambda file, tile=tile: tile.save(file, "PNG"))  # type: ignore[misc]
                            rows.append([name, path.stem])
                            written += 1
            except (openslide.OpenSlideError, ValueError, OSError) as error:
                problems.append(f"{path}: cannot be read ({' '.join(str(error).split())})")
            progress.update(done)
    finally:
        progress.stop()
    write_atomically(out / "groups.csv", csv_text(rows))
    return written, problems


def _tiles(slide: Any, size: int, mpp: float) -> Iterator[tuple[int, int, Any]]:
    """Every whole tile with its place in pixels of the scan."""
    known = slide.properties.get("openslide.mpp-x")
    if mpp and not known:
        raise ValueError("says nothing about the size of its pixels; give --mpp 0 for tiles as scanned")
    factor = max(mpp / float(known), 1.0) if mpp else 1.0
    level = slide.get_best_level_for_downsample(factor)
    own = slide.level_downsamples[level]
    step, wanted = round(size * factor), round(size * factor / own)
    width, height = slide.dimensions
    for y in range(0, height - step + 1, step):
        for x in range(0, width - step + 1, step):
            tile = slide.read_region((x, y), level, (wanted, wanted))
            tile = _on_white(tile)
            yield x, y, tile if wanted == size else tile.resize((size, size))


def _on_white(tile: Any) -> Any:
    """RGB over white: beyond what was scanned a slide is transparent."""
    from PIL import Image

    return Image.alpha_composite(Image.new("RGBA", tile.size, "white"), tile.convert("RGBA")).convert("RGB")


def _share_of_tissue(tile: Any) -> float:
    pixels = np.asarray(tile).astype(np.int16)
    glass = (pixels.min(-1) > BRIGHT) | ((pixels.max(-1) - pixels.min(-1) < PALE) & (pixels.mean(-1) > BRIGHT - 45))
    return float(1 - glass.mean())

"""Pictures of a report for the README: `python docs/screenshot.py runs/<name> [--out docs]`.

Writes report-light.png and report-dark.png (1280 x 800, the top of the page) and report-phone.png (390 wide) with a
headless Chromium, which is looked for on PATH.
"""

import argparse
import html
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

BROWSERS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
    "microsoft-edge",
)
LARGEST = 300_000
# name, width, height, dark
PICTURES = (
    ("report-light", 1280, 800, False),
    ("report-dark", 1280, 800, True),
    ("report-phone", 390, 844, False),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="a run's folder, or its report.html")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="where the pictures go (docs)")
    options = parser.parse_args()
    page = options.run / "report.html" if options.run.is_dir() else options.run
    if not page.is_file():
        return _fail(f"there is no {page}; make it with `ssmlab report {options.run}`")
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        return _fail("no Chromium on PATH; install one, for example with `apt-get install chromium`")
    options.out.mkdir(parents=True, exist_ok=True)
    for name, width, height, dark in PICTURES:
        target = options.out / f"{name}.png"
        try:
            take(browser, page.resolve(), target, width, height, dark)
        except (subprocess.SubprocessError, FileNotFoundError) as error:
            return _fail(f"{browser} made no picture of {page}: {error}")
        print(f"{target}  {width} x {height}  {target.stat().st_size / 1000:.0f} kB")
    return 0


def take(browser: str, page: Path, target: Path, width: int, height: int, dark: bool) -> None:
    """Take one picture of a page, width x height pixels of its top."""
    with tempfile.TemporaryDirectory() as folder:
        # A browser window is at least 500 pixels wide; a frame in it can be as narrow as a phone.
        frame = Path(folder) / "frame.html"
        frame.write_text(
            '<!doctype html><meta name="color-scheme" content="light dark">'
            "<style>body{margin:0}iframe{border:0}</style>"
            f'<iframe src="{html.escape(page.as_uri())}" width="{width}" height="{height}"></iframe>',
            encoding="utf-8",
        )
        shot = Path(folder) / "shot.png"
        command = [
            browser,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--disable-background-networking",
            "--disable-component-update",
            "--no-first-run",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}",
            f"--user-data-dir={folder}/profile",
            f"--window-size={max(width, 500)},{height}",
            f"--screenshot={shot}",
            frame.as_uri(),
        ]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        _save(shot, target, width, height)


def _save(shot: Path, target: Path, width: int, height: int) -> None:
    """Cut the picture to size; reduce it to 256 colours if it is larger than a repository likes."""
    from PIL import Image

    with Image.open(shot) as picture:
        picture = picture.convert("RGB").crop((0, 0, width, height))
    picture.save(target, optimize=True)
    if target.stat().st_size > LARGEST:
        picture.quantize(256, dither=Image.Dither.NONE).save(target, optimize=True)


def _fail(message: str) -> int:
    print(message, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())

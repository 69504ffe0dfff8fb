"""COMET, by its own program: its package and this one need different versions of transformers."""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ssmlab.core.errors import UserError
from ssmlab.core.record import Record
from ssmlab.core.statistics import score_interval, statistics_of
from ssmlab.tasks.translate.scores import EvaluationSet, write_lines

MODEL = "Unbabel/wmt22-comet-da"


def comet_record(
    data: EvaluationSet, lines: Sequence[str], *, model: str = MODEL, program: str = "comet-score", seed: int = 0
) -> Record:
    """COMET of translations, with its 95 % interval over sentences; the record's unit is the model's name.

    Scores of different models, or of one model's different versions, are not comparable.

    Args:
        lines: one translation a source.
        model: of the Hugging Face Hub; the program downloads it when it is first used.
        program: `comet-score` of the package unbabel-comet, or a path to it. unbabel-comet 2.2 needs transformers < 5,
            numpy < 2 and huggingface_hub < 1: it lives in an environment of its own.
        seed: of the resampling.
    Raises:
        UserError: the program is missing, fails, or scores another number of sentences.
    """
    found = shutil.which(program)
    if found is None:
        raise UserError(
            f"COMET needs the program {program}, which lives in an environment of its own: pipx install unbabel-comet"
        )
    with tempfile.TemporaryDirectory() as temporary:
        files = {name: Path(temporary) / name for name in ("sources", "translations", "references")}
        for path, texts in zip(files.values(), (data.sources, lines, data.references), strict=True):
            write_lines(path, [text.replace("\r", " ") for text in texts])  # it ends lines there too
        out = Path(temporary) / "scores.json"
        command = [found, "--model", model, "--gpus", "0", "--quiet", "--only_system", "--to_json", str(out)]
        command += [word for name, path in files.items() for word in (f"--{name}", str(path))]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode or not out.is_file():
            said = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
            raise UserError(f"{program} failed ({said[-1]}); see `{program} --help`")
        (rows,) = json.loads(out.read_text(encoding="utf-8")).values()
    scores = np.array([row["COMET"] for row in rows], dtype=float)
    if len(scores) != len(lines):
        raise UserError(f"{program} scored {len(scores):,} sentences of {len(lines):,}; they are not aligned")
    value, low, high = score_interval(statistics_of(scores), seed=seed)
    return Record(metric="comet", value=value, unit=model, n=len(scores), spread=(low, high))

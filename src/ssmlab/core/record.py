"""A measurement and its circumstances: one flat JSON object a line."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from ssmlab.core.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Record:
    """One number with everything that is needed to read it.

    Args:
        run, task, model: what was measured; `model` is null for numbers of the whole run.
        split: "train", "val" or "test"; `class_` (JSON key "class") a class name, "macro", "weighted", or
            "true -> predicted" for the confusion matrix; `step` the optimiser step for curves.
        metric, value, unit: e.g. "accuracy", 0.97, "fraction". Units: fraction, seconds, bytes, count, nats,
            "multiply-accumulates", "operations", "images/s", "tokens".
        n: how many items or repeats the value rests on; `spread` (low, high): its 95 % interval, or for repeats
            min and max.
        seed, commit, command, machine, versions, time: where it comes from; `time` is ISO 8601 in UTC.
    """

    run: str | None = None
    task: str | None = None
    model: str | None = None
    split: str | None = None
    class_: str | None = None
    step: int | None = None
    metric: str
    value: float
    unit: str | None = None
    n: int | None = None
    spread: tuple[float, float] | None = None
    seed: int | None = None
    commit: str | None = None
    command: str | None = None
    machine: str | None = None
    versions: str | None = None
    time: str | None = None

    def to_json(self) -> str:
        row = asdict(self)
        return json.dumps({("class" if key == "class_" else key): value for key, value in row.items()})

    @staticmethod
    def from_json(line: str) -> "Record":
        row = json.loads(line)
        row["class_"] = row.pop("class", None)
        if row.get("spread") is not None:
            row["spread"] = tuple(row["spread"])
        known = {field.name for field in fields(Record)}
        return Record(**{key: value for key, value in row.items() if key in known})


def read_records(path: Path) -> list[Record]:
    """Read every record of a file; half a line at its end (a run that was killed while writing) is left out.

    Raises:
        UserError: another line is no record; names the line.
    """
    lines = Path(path).read_text(encoding="utf-8", errors="replace").split("\n")
    unfinished = len(lines) if lines[-1] else None
    records = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            records.append(Record.from_json(line))
        except (ValueError, TypeError, AttributeError):
            if number != unfinished:
                raise UserError(f"{path}, line {number}: not a record: {line[:60]!r}; remove the line") from None
    return records

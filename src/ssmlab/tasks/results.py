"""What `fit` and `evaluate` return: records, the history of a training, and both as tables and pictures."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ssmlab.core.errors import UserError
from ssmlab.core.files import write_records
from ssmlab.core.record import Record


class Records(list[Record]):
    """A list of records that can be looked up, drawn, and turned into a table; printed, it is one."""

    def cells(self) -> list[tuple[str, ...]]:
        """Metric, value, unit, 95 % interval and n of every record that is not of a step, as texts, with a heading."""
        rows: list[tuple[str, ...]] = [("metric", "value", "unit", "interval", "n")]
        for record in self:
            if record.step is None:
                what = " ".join(filter(None, (record.split, record.metric, record.class_)))
                spread = "" if record.spread is None else "{:.4g} to {:.4g}".format(*record.spread)
                count = "" if record.n is None else f"{record.n:,}"
                rows.append((what, f"{record.value:.6g}", record.unit or "", spread, count))
        return rows

    def __str__(self) -> str:
        rows = self.cells()
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)

    def _repr_html_(self) -> str:
        """The same in a notebook."""
        from ssmlab.reports.tables import plain_table

        (corner, *heads), *rows = self.cells()
        return plain_table(corner, heads, [(name, cells) for name, *cells in rows])

    def value(self, metric: str, *, split: str | None = None, class_: str | None = None) -> float:
        """The last value of a metric.

        Args:
            split, class_: of this part or class; None: of none in particular.
        Raises:
            UserError: no record has it; the metrics that there are are named.
        """
        for record in reversed(self):
            if record.metric == metric and record.class_ == class_ and split in (None, record.split):
                return record.value
        known = ", ".join(dict.fromkeys(record.metric for record in self))
        raise UserError(f"no record of {metric!r}; there are {known or 'none at all'}")

    def to_pandas(self) -> Any:
        """A DataFrame with a row a record; columns without any value are left out.

        Raises:
            UserError: pandas is not installed.
        """
        rows = [{key.rstrip("_"): value for key, value in asdict(record).items()} for record in self]
        return data_frame(rows).dropna(axis="columns", how="all")

    def plot(self) -> Any:
        """A figure of matplotlib: curves where the records are of steps, else bars of all fractions with intervals."""
        from ssmlab.reports.chart import bars, curves

        return curves(self) if any(record.step is not None for record in self) else bars(self)


class History(list[dict]):
    """The log of a training, a row a logged step."""

    @classmethod
    def of(cls, log: list[dict]) -> "History":
        """The rows of a trainer's log, the step first, without what the trainer measures about itself."""
        own = ("eval_runtime", "eval_samples_per_second", "eval_steps_per_second")
        rows = (row for row in log if row.keys() & {"loss", "eval_loss"})
        return cls({"step": row["step"]} | {name: row[name] for name in row if name not in own} for row in rows)

    def to_pandas(self) -> Any:
        """A DataFrame with a row a logged step.

        Raises:
            UserError: pandas is not installed.
        """
        return data_frame(self)


@dataclass(frozen=True, kw_only=True, eq=False)
class Fitted:
    """A trained model, and what training left.

    Args:
        model: trained in place, on the device where it was trained, in evaluation mode; its `preprocess_config` says
            what inputs go through before it.
        task: that it was trained on.
        history: the log; a row has "step", "epoch" and numbers of the training part ("loss", "learning_rate") or of
            the validation part ("eval_loss", "eval_<metric>").
        records: the same as records with `split`, and what belongs to the training as a whole.
        seconds, steps: of optimisation.
        epoch: that of the weights that were kept.
        folder: where the model is saved, or None.
    """

    model: nn.Module
    task: Any
    history: History
    records: Records
    seconds: float
    steps: int
    epoch: float
    folder: Path | None = None

    def __repr__(self) -> str:
        name = getattr(self.model, "registry_name", None) or type(self.model).__name__
        where = "" if self.folder is None else f" in {self.folder}"
        return f"<{name}{where}, {self.steps:,} steps, epoch {self.epoch:g}: fitted.records, .history, .model, .plot()>"

    def inputs(self, images: Any) -> Tensor:
        """Images as a classifier reads them, (b, c, h, w) on its device: what `ssmlab.interpret` takes.

        Args:
            images: as for `predict`.
        """
        from ssmlab.tasks.classify.python import prepared

        return prepared(self.model, images)

    def save(self, folder: Path | str) -> Path:
        """Write the model so that `load_model` builds it again, and its records.

        Raises:
            UserError: nothing says how the model is built.
        """
        from ssmlab.tasks.saving import save

        if why := save(self.model, Path(folder), getattr(self.model, "preprocess_config", {})):
            raise UserError(f"{why}; load_state_dict reads them")
        write_records(Path(folder) / "records.jsonl", self.records)
        return Path(folder)

    def plot(self) -> Any:
        """The curves of training and validation as a figure of matplotlib."""
        return self.records.plot()

    def to_pandas(self) -> Any:
        """The history as a DataFrame."""
        return self.history.to_pandas()


def data_frame(rows: list[dict]) -> Any:
    """Rows as pandas has them, which ssmlab itself does not need.

    Raises:
        UserError: pandas is not installed.
    """
    try:
        import pandas  # type: ignore[import-untyped]
    except ImportError:
        raise UserError("a DataFrame needs pandas, which is not installed; pip install pandas") from None
    return pandas.DataFrame(rows)

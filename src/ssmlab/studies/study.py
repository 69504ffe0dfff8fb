"""What all studies share: their options, the folder of the report, its files, and the frame of its page.

Nothing here imports torch or numpy before a function is called, so that `--help` is fast.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from ssmlab.core.errors import UserError
from ssmlab.core.files import read_json, write_atomically, write_json, write_records
from ssmlab.core.options import Count, Option, Options, Positive
from ssmlab.core.record import Record
from ssmlab.reports.markup import Html, definitions, document, el

if TYPE_CHECKING:
    from ssmlab.core.stamp import Stamp
    from ssmlab.data import ImageData
    from ssmlab.reports.plots import Plot
    from ssmlab.studies.compare.model_refs import ModelRef

CIRCUMSTANCES = ("command", "commit", "machine", "versions")


@dataclass(frozen=True, kw_only=True)
class StudyOptions(Options):
    """Options of every study. The text below a field is the command's help; words in braces are class variables."""

    study: ClassVar[str]  # the name, of the command too
    models: ClassVar[str] = "models"  # or "model"
    result: ClassVar[str]  # in the help of --overwrite, such as "comparison that is there"
    what: ClassVar[str]  # a folder with the report holds, in messages

    device: str = "auto"
    """auto, cuda, mps or cpu."""
    output: Path | None = None
    """The folder; runs/{study}-<{models}> if not given."""
    overwrite: bool = False
    """Replace the {result}."""

    def settings(self) -> dict[str, Any]:
        """What the report says of them: all but where it lies."""
        return {name: getattr(self, name) for name in self.field_names() if name not in ("output", "overwrite")}

    def folder(self, runs: Path, models: Sequence[str]) -> Path:
        """The report's folder, which is checked; see `check_report_folder`.

        Args:
            models: their names, which make its name where no --output is given.
        """
        words = [model.split("/")[-1] for model in models]
        name = "-".join([self.study, *words])
        short = name if len(name) <= 100 else f"{self.study}-{words[0]}-and-{len(words) - 1}-more"
        return check_report_folder(self.output or runs / short, self.study, self.what, overwrite=self.overwrite)


@dataclass(frozen=True, kw_only=True)
class ImageOptions(StudyOptions):
    """Options of studies that build models and read images."""

    weights: tuple[str, ...] = ()
    """Weights of a network by name: FILE, or NAME=FILE for one of several."""
    image_size: Annotated[int | None, Option(least=8)] = None
    """For networks by name."""
    batch: Positive = 32
    """Images of a batch."""
    threads: Count = 0
    """On the CPU; 0: as many as torch takes."""
    group: str | None = None
    """The data's column whose images stay on one side, or a pattern of file names: "(patient[0-9]+)_"."""
    labels: str = "fine"
    """Column of the classes in a table; of CIFAR-100 fine or coarse."""

    def check(self, models: Sequence["ModelRef"]) -> None:
        """That there is a network for --image-size, and the device; torch is imported for a GPU only.

        Raises:
            UserError: there is not.
        """
        if self.image_size and all(model.folder for model in models):
            raise UserError(
                "--image-size is for networks by name; trained models keep the size that they were trained at"
            )
        if self.device not in ("auto", "cpu"):
            from ssmlab.core.device import choose_compute

            choose_compute(self.device, "float32")

    def start(self) -> str:
        """Set torch's threads; returns the device that computes."""
        import torch

        from ssmlab.core.device import choose_compute

        if self.threads:
            torch.set_num_threads(self.threads)
        return choose_compute(self.device, "float32").device


def check_report_folder(folder: Path, study: str, what: str, *, overwrite: bool = False) -> Path:
    """The folder of a command's report, which is not touched: a new one, an unfinished one, or one to be overwritten.

    Args:
        study: whose file says what such a folder is, and under "finished" whether it is.
        what: the folder holds, in words.
    Raises:
        UserError: it is a file, holds something else, or a finished report that was not to be overwritten.
    """
    marker = folder / marker_file(study)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; give another --output")
    if folder.is_dir() and any(folder.iterdir()):
        if not marker.is_file():
            raise UserError(f"{folder} holds files that are not {what}; give another --output")
        finished = read_json(marker).get("finished", "earlier")
        if finished and not overwrite:
            raise UserError(f"{folder} holds {what} already (finished {finished}); add --overwrite, or --output FOLDER")
    return folder


def marker_file(study: str) -> str:
    """The name of the JSON file that says which study's report a folder holds."""
    return f"{study}.json"


def some_classes(classes: Sequence[str]) -> str:
    """Classes in a message: "10 classes (a, b, c, d, ...)"."""
    return f"{len(classes)} classes ({', '.join(map(str, classes[:4]))}{', ...' if len(classes) > 4 else ''})"


def open_test_images(options: Any, models: Sequence["ModelRef"], hint: str) -> "ImageData":
    """The data of a study, whose classes every trained model must know.

    Args:
        options: with `data`, `group` and `labels`.
        hint: what to do about a model with other classes.
    Raises:
        DataError: the data cannot be read. UserError: a model has other classes.
    """
    from ssmlab.data import open_images
    from ssmlab.data.splits import split_hash

    data = open_images(options.data, group=options.group, labels=options.labels)
    every = split_hash({"all": [id_ for split in data.splits.values() for id_ in split.ids]})
    for model in models:
        if (model.preprocess or {}).get("learned_from") == every:
            raise UserError(
                f"{model.label}: its run divided {options.data} into folds, whose models together have learned from "
                "every image; what was predicted out of the folds is in the run's report, give other data here"
            )
        if model.folder is not None and model.several != data.several:
            says, has = ("several labels", "one") if model.several else ("one label", "several")
            raise UserError(f"{model.label} gives an image {says}, {options.data} has {has} an image; {hint}")
        known = model.preprocess["classes"] if model.preprocess else data.classes
        if set(known) != set(data.classes):
            raise UserError(
                f"{model.label} was trained on {some_classes(known)}, {options.data} has {some_classes(data.classes)}; "
                f"{hint}"
            )
    return data


def stamp_of(study: str, folder: Path, command: str | None, device: str) -> "Stamp":
    """The circumstances of a study; this program's arguments where no command is given."""
    from ssmlab.core.stamp import Stamp, commit, machine, versions

    command = command or " ".join(sys.argv)
    return Stamp(
        run=folder.name, task=study, command=command,
        commit=commit(), machine=machine(device), versions=versions(),
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Report:
    """A finished study. Its files are written by `write`.

    Args:
        settings: the options as they were used.
        stamp: the circumstances. started, finished: times.
    """

    hidden: ClassVar[tuple] = (None, "", (), [], 0)  # settings that the page leaves out

    folder: Path
    records: list[Record]
    settings: dict
    stamp: "Stamp"
    started: str
    finished: str

    def facts(self, *first: tuple[str, str], settings: str | None = None) -> list[tuple[str, str]]:
        """Names and texts of the circumstances, after those of the study itself; `settings` in place of all."""
        given = {key: value for key, value in self.settings.items() if value not in self.hidden}
        text = ", ".join(f"{key} {json.dumps(value, default=str)}" for key, value in given.items())
        return [
            *first,
            ("Settings", text if settings is None else settings),
            ("Command", self.stamp.command or ""),
            ("Commit", self.stamp.commit or "not a checkout"),
            ("Machine", self.stamp.machine),
            ("Versions", self.stamp.versions),
            ("Started", self.started),
            ("Finished", self.finished),
        ]

    def write(
        self, study: str, about: dict, page: str, *, table: str = "", plots: Sequence["Plot"] = (),
        files: dict[str, bytes] | None = None,
    ) -> Path:  # fmt: skip
        """Write everything, each file in one step; returns the page. The marker file says whether all is there.

        Args:
            about: content of the marker file besides settings and circumstances.
            table: of table.md. files: further ones by name.
        """
        content = about | {"settings": self.settings, **{key: getattr(self.stamp, key) for key in CIRCUMSTANCES}}
        content["started"] = self.started
        write_json(self.folder / marker_file(study), content | {"finished": None})
        write_records(self.folder / "records.jsonl", self.records)
        if table:
            write_atomically(self.folder / "table.md", table)
        for plot in plots:
            write_atomically(self.folder / "plots" / f"{plot.name}.svg", plot.svg)
        for name, data in (files or {}).items():
            write_atomically(self.folder / name, data)
        path = self.folder / "report.html"
        write_atomically(path, page)
        write_json(self.folder / marker_file(study), content | {"finished": self.finished})
        return path


def page(
    study: str,
    title: str,
    *,
    eyebrow: str,
    heading: str,
    answer: Sequence[Html | None],
    sections: Sequence[Html | None],
    method: Sequence[tuple[str, str]],
    facts: Sequence[tuple[str, str]],
    models: str = "Models",
    made: str = "numbers",
    files: str = "the numbers are in records.jsonl, the table in table.md",
    style: str = "",
) -> str:
    """The text of a study's page: the answer first, then its sections, then how they were made.

    Args:
        eyebrow: the line above the heading, after the study's name.
        method, facts: names and texts. models, made, files: words in their headings and in the footer.
        style: CSS of this page alone.
    """
    body = el(
        "main",
        el("header", el("p", f"ssmlab {study} · {eyebrow}", class_="eyebrow"), el("h1", heading), *answer),
        *sections,
        section(f"How these {made} were made", card(definitions(method))),
        section(f"{models}, settings, machine", card(definitions(facts))),
        el("footer", f"Made by ssmlab; {files}."),
    )
    return document(f"{title} – ssmlab {study}", body, style)


def section(heading: str, *content: Html | Sequence[Html] | None) -> Html:
    """A part of the page with a heading."""
    return el("section", el("h2", heading), *content)


def card(content: Html) -> Html:
    """A box."""
    return el("div", content, class_="card")

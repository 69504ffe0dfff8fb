"""A trained model with factorised layers, at several ranks: what that costs and saves, before and after fine-tuning."""

import copy
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssmlab.core.files import write_json
from ssmlab.core.progress import Progress
from ssmlab.core.record import Record
from ssmlab.reports.caveats import doubt
from ssmlab.studies.compare.subjects import Subject
from ssmlab.studies.compress.kinds import find_model, kind_class
from ssmlab.studies.study import check_report_folder

if TYPE_CHECKING:
    from ssmlab.studies.compress.page import Result

MARK = "compress.json"  # the file that says a folder holds the results of this command
DENSE, BEFORE, AFTER = "dense", "before fine-tuning", "after fine-tuning"
ENERGIES = (0.5, 0.8, 0.9, 0.95, 0.99)


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a model is compressed and measured.

    Args:
        rule: "rank", "energy" or "flops"; `values` its settings, each of which makes a model.
        targets: linear layers, by their names' last part or pattern. residual_rank: of the side path.
        data: a path as in a recipe's data.path; without it nothing is tested or trained. `group`, `labels` (of images),
            `tokenizer` (of texts): as there.
        limit: at most so many images or rows of each part; 0 takes all.
        epochs: of fine-tuning, of the dense model too; 0 leaves it out. learning_rate: its highest.
        length: tokens of a row; 0 takes the trained model's, or 256.
        image_size, batch, repeats, threads, device, train, weights: as of a comparison.
    """

    rule: str = "energy"
    values: tuple[float, ...] = ENERGIES
    targets: tuple[str, ...] = ("in_proj",)
    residual_rank: int = 0
    data: str | None = None
    group: str | None = None
    labels: str = "fine"
    limit: int = 0
    epochs: int = 3
    learning_rate: float = 3e-4
    tokenizer: str = ""
    length: int = 0
    image_size: int | None = None
    batch: int = 32
    repeats: int = 10
    threads: int = 0
    device: str = "auto"
    train: bool = True
    weights: tuple[str, ...] = ()

    @property
    def training(self) -> dict[str, Any]:
        """The table of a recipe that fine-tuning follows."""
        return {
            "epochs": max(self.epochs, 1),
            "learning_rate": self.learning_rate,
            "batch_size": self.batch,
            "weight_decay": 0.05,
        }


def compress(
    model: str,
    options: Options,
    *,
    output: Path | None = None,
    overwrite: bool = False,
    runs: Path = Path("runs"),
    command: str | None = None,
    progress: Progress | None = None,
) -> "Result":
    """Factorise a model by every setting and write records.jsonl, table.md, plots, models and report.html.

    Args:
        model: a trained model's folder (of images, texts or sequences with labels), a run with one model, a name of the
            table, or timm/<name>.
        output: the folder; `runs/compress-<model>` if None. overwrite: results that are there are replaced.
    Returns:
        the `compress_page.Result`.
    Raises:
        UserError: the model, a target, a setting, the data or the folder is not in order.
    """
    progress = progress or Progress()
    kind, subject = find_model(model, options.weights, runs)
    folder = output or runs / f"compress-{subject.label.replace('/', '-')}"
    check_report_folder(folder, MARK, "results of ssmlab compress", overwrite=overwrite)
    from ssmlab.studies.compress.page import write_result

    result = _Work(kind, subject, options, folder, command or " ".join(sys.argv), progress).result()
    write_result(result)
    return result


class _Work:
    """One call of the command; torch is imported from here on."""

    def __init__(self, kind: str, subject: Subject, options: Options, folder: Path, command: str, progress: Progress):
        import torch

        from ssmlab.core.device import choose_compute

        if options.threads:
            torch.set_num_threads(options.threads)
        placement = choose_compute(options.device, "float32", "no")
        self.options, self.folder, self.command = options, folder, command
        self.kind = kind_class(kind)(subject, options, placement, progress)
        self.records: dict[str, list[Record]] = {}

    def result(self) -> "Result":
        from ssmlab.core.stamp import Stamp, commit, machine, now, versions
        from ssmlab.studies.compress.page import Result

        started, kind = now(), self.kind
        layers, networks, replaced = self._factorised()
        self._costs(networks, replaced)
        if kind.unmeasured is None:
            for label, network in networks.items():
                self._quality(label, network)
        for label, network in networks.items():
            if kind.kept and label != DENSE:
                kind.save(network, self.folder / "models" / label.replace(" ", "-"))
        if self.options.train:
            self._add(kind.training(networks))
        device = kind.placement.device
        stamp = Stamp(
            run=self.folder.name,
            task="compress",
            command=self.command,
            commit=commit(),
            machine=machine(device),
            versions=versions(),
        )
        return Result(
            folder=self.folder,
            subject=kind.subject,
            terms=kind.terms,
            records=[record for label, rows in self.records.items() for record in stamp.on(rows, model=label)],
            spectra={layer.name: layer.shares.tolist() for layer in layers},
            replaced=replaced,
            unmeasured=kind.unmeasured,
            settings=asdict(self.options) | {"device": device} | kind.size,
            stamp=stamp,
            started=started,
            finished=now(),
            doubt=doubt(kind.subject.folder, kind.subject.title),
        )

    def _factorised(self) -> tuple[list, dict[str, Any], dict[str, list]]:
        """The layers' spectra; the networks and what was replaced in them, by label, the dense one first."""
        from ssmlab.adapt.factorize import factorize
        from ssmlab.adapt.spectrum import spectra

        options, dense = self.options, self.kind.network
        layers = spectra(dense, options.targets, self.kind.example)
        networks, replaced = {DENSE: dense}, {DENSE: []}
        for value in options.values:
            label = f"{options.rule} {value:g}"
            networks[label] = copy.deepcopy(dense)
            replaced[label] = factorize(
                networks[label],
                options.targets,
                **{options.rule: value},
                residual_rank=options.residual_rank,
                decomposed=layers,
            )
        return layers, networks, replaced

    def _costs(self, networks: dict[str, Any], replaced: dict[str, list]) -> None:
        for label, network in networks.items():
            self.records[label] = self.kind.counts(network)
            for each in replaced[label]:
                self.records[label] += [
                    Record(metric="rank", value=each.rank + each.residual_rank, unit="count", class_=each.name),
                    Record(metric="energy", value=each.energy, unit="fraction", class_=each.name),
                ]
        self._add(self.kind.inference(networks))

    def _quality(self, label: str, network: Any) -> None:
        """The test part before and after fine-tuning; the network is fine-tuned by it."""
        kind, rows = self.kind, self.records[label]
        rows += [replace(row, split="test", class_=BEFORE) for row in kind.test(label, network)]
        if self.options.epochs:
            rows.append(kind.fine_tune(label, network))
            rows += [replace(row, split="test", class_=AFTER) for row in kind.test(label, network)]

    def _add(self, found: dict[str, list[Record]]) -> None:
        for label, rows in found.items():
            self.records[label] += rows


def write_mark(folder: Path, content: dict) -> None:
    """The file that says what this folder is."""
    write_json(folder / MARK, content)

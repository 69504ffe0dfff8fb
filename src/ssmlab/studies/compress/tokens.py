"""Language models, and classifiers of sequences on their layers, for `ssmlab compress`."""

import shutil
from abc import abstractmethod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssmlab.checkpoints.files import load_language_model, save_language_model
from ssmlab.checkpoints.folder import load_model, save_model
from ssmlab.core import formats
from ssmlab.core.errors import ModelError
from ssmlab.core.record import Record
from ssmlab.data.text.tokenizers import FILES
from ssmlab.models import create_model
from ssmlab.profiling import Call, Timings, TrainingStep, count_flops, count_parameters, forward_call, in_rounds
from ssmlab.studies.compress.kinds import Kind, Terms
from ssmlab.tasks.classify_sequence import experiment as classify_sequence
from ssmlab.tasks.classify_sequence.experiment import PaddedSequences
from ssmlab.tasks.classify_sequence.task import ClassifySequences
from ssmlab.tasks.language import experiment as language
from ssmlab.tasks.language.rows import row_metrics
from ssmlab.tasks.recipe import load_recipe, validate
from ssmlab.tasks.shared.metrics import classification_metrics
from ssmlab.tasks.table import load_data
from ssmlab.training.predict import predict

LENGTH = 256  # of a row, where neither the model's run nor the command says
TOKENIZER_FILES = ("preprocess.json", "tokenizer_config.json", *FILES)


class Tokens(Kind):
    """What both have: rows of random tokens are counted and timed, costs are a token's."""

    task_name: str
    classes: int = 0  # of a classifier
    data: Any = None  # as the task loads them; None where nothing is measured

    def __init__(self, *arguments: Any):
        super().__init__(*arguments)
        self.network = self._open().to(self.compute.device).eval()
        known = (self.ref.preprocess or {}).get("length")
        self.size = {"length": self.options.length or known or LENGTH}
        self.unmeasured, self.kept = None, self.ref.folder is not None
        if self.options.data is None:
            self.unmeasured = "no --data"
        elif self.ref.folder is None:
            self.unmeasured = "random weights"
        else:
            self._read(self.ref.folder)

    @abstractmethod
    def _open(self) -> Any:
        """The dense network, in float32."""

    def _read(self, folder: Path) -> None:
        """The parts of the data, cut as in the run that made the model, so that its test part stays unseen."""
        options, run = self.options, folder.parent.parent
        data = {"kind": (self.ref.preprocess or {}).get("kind", "text")}
        if folder.parent.name == "models" and (run / "recipe.toml").is_file():
            made = load_recipe(run)
            data = made.data.model_dump() if made.task == self.task_name else data
        data |= {"path": options.data, "limit": options.limit, **self.size}
        if options.tokenizer or any((folder / name).is_file() for name in FILES):
            data["tokenizer"] = options.tokenizer  # else the one next to the weights, which may have grown since
        table = {"task": self.task_name, "data": data, "training": options.training}
        table["models"] = [{"weights": str(folder)}]
        self.recipe = validate(table, "ssmlab compress")
        self.data = load_data(self.recipe, self.progress)
        if self.data.vocab_size > self.network.config.padded_vocab:
            raise ModelError(
                f"{self.ref.label} has {self.network.config.padded_vocab} tokens, the data {self.data.vocab_size}; "
                "give the model's own --tokenizer"
            )

    @property
    def example(self) -> Tensor:
        return self._rows(1)

    def _rows(self, count: int) -> Tensor:
        random = torch.Generator().manual_seed(0)
        shape = (count, self.size["length"])
        vocabulary = self.network.config.vocab_size
        return torch.randint(0, vocabulary, shape, generator=random).to(self.compute.device)

    def counts(self, network: nn.Module) -> list[Record]:
        found, length = count_flops(network, self.example), self.size["length"]
        macs = {"macs_per_token": found.macs, "scan_macs_per_token": found.scan_macs}
        return [
            Record(metric="parameters", value=count_parameters(network), unit="count"),
            *(Record(metric=name, value=n / length, unit="multiply-accumulates") for name, n in macs.items()),
            Record(metric="flops_per_token", value=found.flops / length, unit="operations"),
        ]

    def inference(self, networks: dict[str, nn.Module]) -> dict[str, list[Record]]:
        rows = self._rows(self.options.batch)
        calls = {label: forward_call(network, rows) for label, network in networks.items()}
        return self._timed(self.terms.speed, calls)

    def training(self, networks: dict[str, nn.Module]) -> dict[str, list[Record]]:
        rows = self._rows(self.options.batch)
        labels = rows.roll(-1, 1) if not self.classes else torch.arange(len(rows), device=rows.device) % self.classes
        steps = {label: TrainingStep(_Scores(network), rows, labels).call for label, network in networks.items()}
        return self._timed(self.terms.train_speed, steps)

    def _timed(self, metric: str, calls: dict[str, Call]) -> dict[str, list[Record]]:
        count, repeats = self.options.batch * self.size["length"], self.options.repeats
        self.progress.start("timing", repeats * len(calls), unit="turns")
        try:
            found = in_rounds(calls, repeats, progress=self.progress.update)
        finally:
            self.progress.stop()
        return {label: [self._speed(metric, times, count)] for label, times in found.items()}

    def _speed(self, metric: str, times: Timings, tokens: int) -> Record:
        speed = Timings(tokens, times.cold, times.seconds).throughput
        return Record(
            metric=metric,
            value=speed.median,
            unit="tokens/s",
            n=len(times.seconds),
            spread=(speed.low, speed.high),
            class_=f"batch {self.options.batch}",
        )

    def _copy_tokenizer(self, folder: Path) -> None:
        """The files next to the weights that say what its tokens are."""
        for name in TOKENIZER_FILES:
            source = (self.ref.folder or Path()) / name
            if self.ref.folder is not None and source.is_file():
                shutil.copyfile(source, folder / name)


class _Scores(nn.Module):
    """A network's logits as cross-entropy takes them: classes second."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, tokens: Tensor) -> Tensor:
        found = self.network(tokens)
        return found[0].transpose(1, 2) if isinstance(found, tuple) else found


class Texts(Tokens):
    """A language model, by its folder in any layout or by name."""

    task_name = "language"

    def _open(self) -> Any:
        if self.ref.folder is not None:
            return load_language_model(self.ref.folder).float()
        torch.manual_seed(0)
        return create_model(self.ref.name)

    def _read(self, folder: Path) -> None:
        super()._read(folder)
        self.task = language.task_of(self.recipe, self.data)

    @property
    def terms(self) -> Terms:  # type: ignore[override]
        unit = self.data.unit if self.data else "byte"
        return Terms(
            item="token",
            suffix="_per_token",
            speed="tokens_per_second",
            train_speed="train_tokens_per_second",
            quality={
                f"bits_per_{unit}": (f"Bits per {unit}", formats.decimal(3)),
                "perplexity": ("Perplexity of a token", formats.decimal(2)),
                "loss": ("Loss, nats a token", formats.decimal(3)),
            },
            higher_is_better=False,
        )

    def test(self, label: str, network: nn.Module) -> list[Record]:
        task, evaluation = language.task_of_part(self.recipe, self.data, "test"), self.recipe.evaluation
        sums, _ = predict(
            network,
            task,
            language.dataset_of(self.data.rows["test"]),
            batch_size=self.options.batch,
            compute=self.compute,
            title=f"testing {label}",
            progress=self.progress,
        )
        return [row for row in row_metrics(task, sums, evaluation.bootstrap) if row.metric in self.terms.quality]

    def parts(self) -> tuple[Any, Any]:
        return language.parts(self.recipe, self.data)

    def save(self, network: nn.Module, folder: Path) -> None:
        save_language_model(network, folder)
        self._copy_tokenizer(folder)


class Classifier(Tokens):
    """A classifier of sequences, by its folder."""

    task_name = "classify_sequence"
    terms = Terms(
        item="token",
        suffix="_per_token",
        speed="tokens_per_second",
        train_speed="train_tokens_per_second",
        quality={"accuracy": ("Accuracy", formats.percent), "loss": ("Loss, nats", formats.decimal(3))},
        higher_is_better=True,
    )

    def _open(self) -> Any:
        network, _ = load_model(self.ref.folder)  # type: ignore[arg-type]  # a classifier is known by its folder alone
        self.classes = network.head.out_features
        return network.float()

    def _read(self, folder: Path) -> None:
        super()._read(folder)
        self.same_classes(self.data.classes)
        self.task = ClassifySequences(classes=self.data.classes)

    def test(self, label: str, network: nn.Module) -> list[Record]:
        part = self.data.test
        logits, _ = predict(
            network,
            self.task,
            PaddedSequences(part, self.size["length"]),
            batch_size=self.options.batch,
            compute=self.compute,
            title=f"testing {label}",
            progress=self.progress,
        )
        rows = classification_metrics(logits, part.labels, self.task.classes)
        return [row for row in rows if row.metric in self.terms.quality]

    def parts(self) -> tuple[Any, Any]:
        return classify_sequence.parts(self.recipe, self.data)

    def save(self, network: Any, folder: Path) -> None:
        save_model(network, folder, self.ref.preprocess or {})
        self._copy_tokenizer(folder)

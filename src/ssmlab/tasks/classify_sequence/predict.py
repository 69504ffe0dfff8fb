"""A trained classifier of sequences on new ones. torch is imported when the model is loaded."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from ssmlab.core.errors import ModelError
from ssmlab.core.progress import Progress
from ssmlab.data.sequences.unlabelled import Reader
from ssmlab.data.text.documents import Document
from ssmlab.data.text.encoding import UTF8
from ssmlab.data.text.tokenizers import BaseTokenizer, find_tokenizer
from ssmlab.tasks.classify.predict import Meaning, Prediction


class SequenceInference:
    """A classifier that a run saved, with all that sequences went through in its training.

    Args:
        calibrated, threshold: see `tasks.classify.predict.Classifier`.
    Raises:
        ModelError: the folder is incomplete.
        UserError: it holds no calibration.
    """

    def __init__(self, folder: Path, device: str = "auto", *, calibrated: bool = False, threshold: bool = False):
        from ssmlab.checkpoints.folder import load_model
        from ssmlab.core.device import choose_compute

        network, preprocess = load_model(folder, "sequence_classifier")
        self.compute = choose_compute(device, "float32")
        self.network = network.to(self.compute.device)
        try:
            self.classes = tuple(preprocess["classes"])
            self.kind, self._length = preprocess["kind"], int(preprocess["length"])
            self._rate = int(preprocess.get("rate", 0))  # runs of the first versions did not keep it
            self._encoding = str(preprocess.get("encoding", UTF8))
        except (KeyError, TypeError) as error:
            raise ModelError(f"{folder / 'preprocess.json'} lacks {error}; train the model again") from None
        if len(self.classes) != network.head.out_features:
            raise ModelError(f"{folder} names {len(self.classes)} classes and has {network.head.out_features} outputs")
        self.meaning = Meaning.of(preprocess, self.classes, str(folder), calibrated=calibrated, threshold=threshold)
        self.notes: list[str] = []
        self._encode: Callable = list
        self.decode: Callable[[list[int]], str] | None = BaseTokenizer().decode if self.kind == "dna" else None
        if self.kind == "text":
            tokenizer = find_tokenizer(folder, network.config.vocab_size)
            self._encode, self.decode = tokenizer.encode, tokenizer.decode

    def read(
        self, paths: list[Path], stdin: Callable[[], bytes], *, lines: bool = False
    ) -> tuple[list[Document], list[str]]:
        """Tokens of files, of folders and of standard input ("-"), and what is wrong with the rest.

        What the user should know is in `notes` after it.
        """
        reader = Reader(
            kind=self.kind,
            encode=self._encode,
            length=self._length,
            rate=self._rate,
            lines=lines,
            encoding=self._encoding,
        )
        found = reader.read(paths, stdin)
        self.notes = reader.notes
        return found

    def encode(self, text: str) -> list[int]:
        """Tokens of a text, as many as are kept in training; only of a model of texts.

        Raises:
            ModelError: the model is of something else.
        """
        if self.kind != "text":
            raise ModelError(f"the model reads {self.kind}, no texts; name a file")
        return self._encode(text)[: self._length]

    def classify(
        self, documents: list[Document], batch_size: int = 32, progress: Progress | None = None
    ) -> list[Prediction]:
        """Probabilities of all classes for every sequence."""
        from ssmlab.tasks.classify_sequence.data import SequencePart
        from ssmlab.tasks.classify_sequence.experiment import PaddedSequences
        from ssmlab.tasks.classify_sequence.task import ClassifySequences
        from ssmlab.training.predict import predict

        if not documents:
            return []
        ids = [document.id for document in documents]
        unknown = np.zeros(len(ids), np.int64)  # what would be counted is not looked at
        logits, _ = predict(
            self.network,
            ClassifySequences(classes=self.classes),
            PaddedSequences(SequencePart([document.tokens for document in documents], unknown, ids), self._length),
            batch_size=batch_size,
            compute=self.compute,
            title="classifying",
            progress=progress,
        )
        return self.meaning.predictions(ids, logits)

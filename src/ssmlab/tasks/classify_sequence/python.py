"""Classification of sequences from Python: texts or tokens with labels, and a language model that gets a head."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ssmlab.core.device import ComputeConfig
from ssmlab.core.errors import UserError
from ssmlab.core.progress import Progress
from ssmlab.core.record import Record
from ssmlab.data.sequences.reader import open_labelled
from ssmlab.data.text.tokenizers import BYTES, ByteTokenizer, find_tokenizer, load_tokenizer
from ssmlab.models.language.sequence_classifier import SequenceClassifier
from ssmlab.tasks.classify.python import (
    ClassPrediction,
    check_classes,
    class_predictions,
    class_records,
    own_options,
    parts_named,
)
from ssmlab.tasks.classify_sequence.data import SequencePart
from ssmlab.tasks.classify_sequence.experiment import PaddedSequences
from ssmlab.tasks.classify_sequence.task import ClassifySequences
from ssmlab.tasks.items import attribute, changed, labels_of, name_of, outputs_of, pair, some_items
from ssmlab.tasks.language.texts import encoded

ABOUT = ("classes", "tokenizer", "length", "positive")
PREDICTING = ("calibrated", "threshold")  # see `tasks.classify.predict.Classifier`
TRAINING = ("pool",)
LENGTH = 1024  # sequences are cut after so many tokens, where nothing else is given


def _tokens(about: dict[str, Any], size: int) -> Any:
    """A function that makes tokens of a text or of numbers, cut to the model's length."""
    source = about.get("tokenizer") or BYTES
    if not isinstance(source, (str, Path)):
        tokenizer = source
    elif "folder" in about and about.get("kind") == "text":
        tokenizer = find_tokenizer(about["folder"], size)
    else:
        tokenizer = load_tokenizer(source)
    length = int(about.get("length", LENGTH))
    name = BYTES if isinstance(tokenizer, ByteTokenizer) else ""

    def tokens(sequence: Any) -> torch.Tensor:
        row = encoded(sequence, tokenizer, name) if isinstance(sequence, str) else sequence
        row = torch.as_tensor(np.array(row) if not isinstance(row, torch.Tensor) else row).long()[:length]
        if row.ndim != 1 or not len(row) or int(row.max()) >= size:
            raise UserError(f"a sequence must hold whole numbers below {size}, got {sequence!r:.60}")
        return row

    return tokens


def prepare(
    model: Any, train: Any, val: Any, given: dict[str, Any]
) -> tuple[nn.Module, ClassifySequences, Any, Any, dict[str, Any]]:
    """Model, task, both parts as training reads them, and what sequences go through.

    Args:
        model: a `SequenceClassifier`, or a language model, which becomes the layers of one.
        train, val: (text or tokens, label).
        given: of ABOUT; pool, "mean" or "last", of a new head.
    """
    known = dict(getattr(model, "preprocess_config", {}))
    first = pair(some_items(train, 1)[0], "tokens")[0]
    about = {"kind": "text" if isinstance(first, str) else "tokens", "rate": 0, "length": LENGTH} | known | given
    classes = given.get("classes") or attribute(train, "classes") or known.get("classes")
    if classes is None:
        classes = [str(label) for label in range(max(labels_of(train, "tokens")) + 1)]
    about |= {"task": "classify_sequence", "classes": [str(name) for name in classes]}
    if not isinstance(model, SequenceClassifier):
        model = SequenceClassifier(model, len(classes), given.get("pool", "mean"))
    about["tokenizer"] = about.get("tokenizer") or (BYTES if about["kind"] == "text" else "")
    task, tokens = ClassifySequences(classes=tuple(about["classes"])), _tokens(about, model.config.vocab_size)
    train, val = (changed(part, lambda item: _changed(item, tokens)) for part in (train, val))
    count = outputs_of(model, task, some_items(train, 1)[0]).shape[1]
    if count != len(classes):
        raise UserError(f"the data have {len(classes)} classes, {name_of(model)} has a head for {count}")
    source = about["tokenizer"]
    about["tokenizer"] = str(source if isinstance(source, (str, Path)) else getattr(source, "path", ""))
    return model, task, train, val, {key: value for key, value in about.items() if key not in ("pool", "positive")}


def _changed(item: Any, tokens: Any) -> tuple[torch.Tensor, Any]:
    sequence, label = pair(item, "tokens")
    return tokens(sequence), label


def read(
    path: Path, about: dict[str, Any], part: str, recipe: Any, run: Any, given: dict[str, Any], progress: Progress
) -> tuple[Any, dict[str, Any]]:
    """A part of the sequences in a path, and what belongs to it.

    Args:
        recipe, run: of the run that trained the model and its data, where these are meant; else None.
    """
    if recipe is not None:
        own = getattr(run, part)
        return PaddedSequences(own, recipe.data.length), own_options(recipe, own, part)
    found = open_labelled(str(path), about["kind"], val_fraction=0.1, seed=0, rate=int(about.get("rate") or 0))
    check_classes(path, found.classes, about["classes"])
    size = 1 << 31 if about["kind"] != "text" else 1 << 62
    tokens = _tokens(about, size)
    chosen = [found.items[i] for each in parts_named(part) for i in found.held[each]]
    progress.say(f"its {part} part, {len(chosen):,} of {len(found.items):,} sequences")
    rows = [tokens(item.content).numpy() for item in chosen]
    labels = np.array([list(about["classes"]).index(item.label) for item in chosen])
    return PaddedSequences(SequencePart(rows, labels, [item.id for item in chosen]), int(about["length"])), {}


def evaluate(
    model: Any,
    data: Any,
    about: dict[str, Any],
    *,
    compute: ComputeConfig,
    batch_size: int,
    progress: Progress,
    **options: Any,
) -> list[Record]:
    """Loss, accuracy and its kin with 95 % intervals, of (text or tokens, label).

    Args:
        options: of `class_records`.
    """
    task = ClassifySequences(classes=tuple(about["classes"]))
    if not isinstance(data, PaddedSequences):
        tokens = _tokens(about, model.config.vocab_size)
        data = changed(data, lambda item: _changed(item, tokens))
    return class_records(model, task, data, about, compute, batch_size, progress, **options)


def predict(
    model: Any, inputs: Any, about: dict[str, Any], *, compute: ComputeConfig, batch_size: int, progress: Progress
) -> list[ClassPrediction]:
    """A prediction for every text or sequence of tokens."""
    task, tokens = ClassifySequences(classes=tuple(about["classes"])), _tokens(about, model.config.vocab_size)
    rows = (tokens(row[0] if isinstance(row, tuple) else row) for row in inputs)
    return class_predictions(model, task, rows, about, compute, batch_size, progress)

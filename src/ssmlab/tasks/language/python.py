"""Language models from Python: texts or tokens to what `fit`, `evaluate`, `predict` and `generate` need."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ssmlab.checkpoints.hybrids import Hybrid
from ssmlab.core.device import ComputeConfig
from ssmlab.core.errors import DataError, UserError
from ssmlab.core.progress import Progress
from ssmlab.core.record import Record
from ssmlab.core.statistics import wilson
from ssmlab.data.sequences.fasta import read_fasta
from ssmlab.data.sequences.wav import read_wavs
from ssmlab.data.text.documents import Document, left_out, read_texts
from ssmlab.data.text.packing import Rows, pack, repack
from ssmlab.data.text.tokenizers import BYTES, ByteTokenizer, Tokenizer, find_ends, find_tokenizer, load_tokenizer
from ssmlab.generation.generate import Generated
from ssmlab.generation.generate import generate as continuations
from ssmlab.tasks.items import name_of, some_items
from ssmlab.tasks.language.data import UNKNOWN
from ssmlab.tasks.language.experiment import dataset_of
from ssmlab.tasks.language.rows import row_metrics
from ssmlab.tasks.language.task import COUNT, NLL, Language
from ssmlab.tasks.language.texts import UNITS, Texts, encoded, separator_of
from ssmlab.training.predict import predict as outputs_for

ABOUT = ("tokenizer", "length", "stride", "documents", "tokens_per_unit", "bootstrap")
TRAINING: tuple[str, ...] = ()
LENGTH = 256  # of a row, where nothing says it
TOP = 5  # next tokens that are shown


@dataclass(frozen=True, eq=False)
class ScoredText:
    """What a language model makes of a text.

    tokens: how many of them were predicted; loss: their mean in nats; perplexity: exp(loss).
    next: the likeliest tokens after the text, with their probabilities; numbers where nothing says what they mean.
    """

    tokens: int
    loss: float
    perplexity: float
    next: dict[Any, float]


@dataclass(frozen=True)
class _Vocabulary:
    """What the tokens of a model are: its tokenizer, None for plain numbers, and the token between documents."""

    tokenizer: Tokenizer | None
    separator: int
    bytes: bool

    def document(self, number: int, text: str, room: int) -> Document:
        """A text in tokens; where the model has no token between documents, without one."""
        assert self.tokenizer is not None
        tokens = encoded(text, self.tokenizer, BYTES if self.bytes else "")
        if self.separator < room:
            return Document(str(number), tokens)
        return Document(str(number), tokens, np.ones(len(tokens), bool), opened=False)


def _vocabulary(model: Any, about: dict[str, Any], given: Any = None) -> _Vocabulary:
    """By what is given, else what the model was trained with, else what lies in its folder, else bytes."""
    size = model.config.vocab_size
    if given is not None and not isinstance(given, (str, Path)):
        tokenizer = given
    elif given is not None:
        tokenizer = load_tokenizer(given)
    elif "folder" in about:
        tokenizer = find_tokenizer(about["folder"], size)
    elif about.get("tokenizer", BYTES) == BYTES and size >= ByteTokenizer.size:
        tokenizer = ByteTokenizer()
    else:
        tokenizer = load_tokenizer(about.get("tokenizer", BYTES))
    if tokenizer.size > size:
        raise UserError(
            f"the tokenizer has {tokenizer.size} tokens, {name_of(model)} has {size}; give vocab_size="
            f"{tokenizer.size + 1} where it is created, or another tokenizer=..."
        )
    stored = about.get("mark")
    separator = stored if isinstance(stored, int) else separator_of(tokenizer)
    return _Vocabulary(tokenizer, separator, isinstance(tokenizer, ByteTokenizer))


def prepare(
    model: Any, train: Any, val: Any, given: dict[str, Any]
) -> tuple[nn.Module, Language, Any, Any, dict[str, Any]]:
    """Model, task, both parts as training reads them, and what texts go through.

    Args:
        train, val: a text, a list of texts, or a dataset of sequences of tokens.
        given: tokenizer, "bytes", a file, a folder or an object with `encode`; length of a row in tokens.
    """
    if isinstance(model, Hybrid):
        raise UserError(f"{type(model.network).__name__} writes and is measured here; transformers trains it")
    about = dict(getattr(model, "preprocess_config", {}))
    length = int(given.get("length") or about.get("length") or LENGTH)
    if not _are_texts(train):
        _check_tokens(model, train)
        task = Language(vocab_size=model.config.vocab_size, unit="token")
        return model, task, train, val, about | {"task": "language", "kind": "tokens", "length": length}
    vocabulary = _vocabulary(model, about, given.get("tokenizer"))
    if vocabulary.separator >= model.config.vocab_size:
        raise UserError(
            f"texts need {vocabulary.separator + 1} tokens, one of them for the end of a text, {name_of(model)} has "
            f"{model.config.vocab_size}; give vocab_size={vocabulary.separator + 1} where it is created"
        )
    rows = [None if part is None else _rows(model, part, vocabulary, length) for part in (train, val)]
    units = [None if row is None else row[1] for row in rows]
    data = [None if row is None else dataset_of(row[0]) for row in rows]
    task = Language(vocab_size=model.config.vocab_size, tokens_per_unit=units[1] or units[0] or 1.0)
    source = BYTES if vocabulary.bytes else str(getattr(vocabulary.tokenizer, "path", ""))
    about |= {"task": "language", "kind": "text", "tokenizer": source, "mark": vocabulary.separator, "length": length}
    return model, task, *data, about


def _are_texts(data: Any) -> bool:
    return isinstance(data, str) or isinstance(some_items(data, 1)[0], str)


def _check_tokens(model: Any, data: Any) -> None:
    for item in some_items(data, 64):
        try:
            tokens = torch.as_tensor(item["tokens"] if isinstance(item, dict) else item)
        except (TypeError, ValueError, KeyError, RuntimeError):
            raise UserError(
                f"an item must be a text or a sequence of at least 2 whole numbers, got {type(item).__name__}"
            ) from None
        if tokens.ndim != 1 or len(tokens) < 2 or tokens.is_floating_point():
            raise UserError(
                f"an item must be a text or a sequence of at least 2 whole numbers, got {tokens.dtype} "
                f"of shape {tuple(tokens.shape)}"
            )
        if int(tokens.max()) >= model.config.vocab_size or int(tokens.min()) < 0:
            raise UserError(
                f"tokens go from {int(tokens.min())} to {int(tokens.max())}, {name_of(model)} has "
                f"{model.config.vocab_size} of them; give vocab_size={int(tokens.max()) + 1} where it is created"
            )


def _rows(model: Any, texts: Any, vocabulary: _Vocabulary, length: int, stride: int = 0) -> tuple[Rows, float]:
    """Texts as rows, and how many tokens are predicted for each of their bytes."""
    texts = [texts] if isinstance(texts, str) else [texts[i] for i in range(len(texts))]
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise UserError(
                f"item {i} is no text as the first one is, got {type(text).__name__}; give one kind of items"
            )
    room = model.config.vocab_size
    documents = [vocabulary.document(i, text, room) for i, text in enumerate(texts)]
    separator = vocabulary.separator if vocabulary.separator < room else 0
    rows = pack(documents, length, separator, _checked(stride or length, length))
    labels = rows.labels()
    count = int((labels != -100).sum())
    if not count:
        raise UserError("the texts hold nothing to predict; give longer ones")
    if vocabulary.bytes:
        return rows, count / max(1, int(((labels != -100) & (labels != vocabulary.separator)).sum()))
    whole = sum(len(document.tokens) + 1 for document in documents)
    return rows, count / max(1, round(sum(len(text.encode()) for text in texts) * count / whole))


def read(
    path: Path, about: dict[str, Any], part: str, recipe: Any, run: Texts | None, given: dict[str, Any], progress: Any
) -> tuple[Any, dict[str, Any]]:
    """The texts in a path, multiple-choice questions in JSON lines, or a part of a run's own rows, and their options.

    Args:
        recipe, run: of the run that trained the model and its data, where these are meant; else None.
    """
    if recipe is not None and run is not None:
        rows = run.rows[part]
        if given.keys() & {"length", "stride"}:
            if not recipe.data.packing or rows.streams or recipe.data.kind == "chat":
                raise UserError(
                    "the run's rows are whole documents or go on from each other; leave length and stride out"
                )
            length = given.get("length", recipe.data.length)
            rows = repack(rows, length, run.separator_id, _checked(given.get("stride", length), length))
        count = int((rows.labels() != -100).sum())
        config = recipe.evaluation
        about = {"tokens_per_unit": count / run.units[part], "unit": run.unit, "bootstrap": config.bootstrap}
        return dataset_of(rows), about | {"batch_size": config.batch_size}
    if questions := read_questions(path):
        return questions, {}
    if about.get("kind") in ("dna", "audio"):
        return _read_rows(path, about, given, progress)
    if about.get("kind", "text") not in ("text", "chat"):
        raise UserError(
            f"the model's tokens are no text but {about['kind']}; it is evaluated on the run's own data only"
        )
    return [text for _, text in read_texts(path, given.get("documents", "file"))], {}


def _read_rows(path: Path, about: dict[str, Any], given: dict[str, Any], progress: Any) -> tuple[Any, dict[str, Any]]:
    """All bases or sounds in a path in rows, as a run has them, and how they are counted."""
    notes = left_out(path, about["kind"])
    if about["kind"] == "dna":
        documents = read_fasta(path)
    else:
        documents, rate, said = read_wavs(path, rate=int(about.get("rate") or 0))
        notes += [f"{rate:,} samples per second", *said]
    for note in notes:
        progress.say(f"note: {note}")
    length, mark = int(given.get("length") or about.get("length") or LENGTH), int(about["mark"])
    rows = pack(documents, length, mark, _checked(int(given.get("stride") or length), length))
    if about["kind"] == "dna":  # a run of N says nothing about how well bases are predicted
        rows = replace(rows, learned=rows.learned & (rows.tokens != UNKNOWN))
    labels = rows.labels()
    count, units = int((labels != -100).sum()), int(((labels != -100) & (labels != mark)).sum())
    if not units:
        raise DataError(f"{path}: nothing to predict in it; give more")
    return dataset_of(rows), {"tokens_per_unit": count / units, "unit": UNITS[about["kind"]]}


def _checked(stride: int, length: int) -> int:
    if not 0 < stride <= length:
        raise UserError(f"stride must be from 1 to length = {length}, got {stride}")
    return stride


def read_questions(path: Path) -> list[dict[str, Any]]:
    """Multiple-choice questions in a file of JSON lines; none where its first line is no question.

    A line is {"question" or "prompt": text, "choices": [texts], "answer": index or letter}.

    Raises:
        DataError: lines that are no questions, all of them listed.
    """
    if path.suffix.lower() not in (".jsonl", ".json") or not path.is_file():
        return []
    found: list[dict[str, Any]] = []
    problems: list[str] = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            row, reason = {}, f"no JSON ({error})"
        else:
            reason = _why_no_question(row)
        if reason and not found:
            return []
        if reason:
            problems.append(f"line {number}: {reason}")
        found.append(row)
    if problems:
        raise DataError(f"{path}: {len(problems)} lines are no questions", problems)
    return found


def _why_no_question(row: Any) -> str:
    if not isinstance(row, dict) or not isinstance(row.get("choices"), list):
        return 'expected {"question": "...", "choices": [...], "answer": 0}'
    if not isinstance(row.get("question", row.get("prompt")), str) or not all(
        isinstance(choice, str) and choice for choice in row["choices"]
    ):
        return "question and choices must be texts"
    if row.get("answer") not in range(len(row["choices"])):
        return f"answer must be a number from 0 to {len(row['choices']) - 1}, got {row.get('answer')!r}"
    return ""


def evaluate(
    model: Any,
    data: Any,
    about: dict[str, Any],
    *,
    compute: ComputeConfig,
    batch_size: int,
    progress: Progress,
    tokenizer: Any = None,
    length: int | None = None,
    stride: int | None = None,
    documents: str = "file",
    tokens_per_unit: float = 0.0,
    unit: str = "",
    bootstrap: int = 2000,
) -> list[Record]:
    """Loss, perplexity, bits a byte (or a token) and correct tokens; of questions the share of right answers.

    Args:
        data: texts, sequences of tokens, or questions {"question", "choices", "answer"}.
        length, stride: tokens of a window, and how far the next one is from it; every token is counted once, with at
            least `length - stride` tokens before it but at the beginning.
    """
    how: dict[str, Any] = {"compute": compute, "batch_size": batch_size, "progress": progress}
    if not isinstance(data, str) and isinstance(first := some_items(data, 1)[0], dict) and "choices" in first:
        return _questions(model, data, _vocabulary(model, about, tokenizer), how)
    if _are_texts(data):
        vocabulary = _vocabulary(model, about, tokenizer)
        rows, tokens_per_unit = _rows(model, data, vocabulary, length or about.get("length", LENGTH), stride or 0)
        data, unit = dataset_of(rows), "byte"
    elif not tokens_per_unit:
        _check_tokens(model, data)
    task = Language(vocab_size=model.config.vocab_size, unit=unit or "token", tokens_per_unit=tokens_per_unit or 1.0)
    sums = outputs_for(model, task, data, title="evaluating", **how).values
    return row_metrics(task, sums, bootstrap)


def _questions(model: Any, questions: Sequence[dict], vocabulary: _Vocabulary, how: dict[str, Any]) -> list[Record]:
    """The share of questions whose right answer is the likeliest, and the same for the likeliest byte by byte."""
    assert vocabulary.tokenizer is not None
    rows, lengths, owners = [], [], []
    for number, row in enumerate(questions):
        prompt: str = row["question"] if "question" in row else row["prompt"]
        for choice in row["choices"]:
            answer = choice if prompt[-1:].isspace() or choice[:1].isspace() else f" {choice}"
            before = vocabulary.tokenizer.encode(prompt)
            whole = np.array(vocabulary.tokenizer.encode(prompt + answer), np.int64)
            if not before or len(whole) <= len(before):
                raise UserError(f"question {number + 1}: the prompt or the choice {choice!r} has no tokens of its own")
            labels = np.where(np.arange(len(whole)) < len(before), -100, whole)
            rows.append({"tokens": whole[:-1], "labels": labels[1:]})
            lengths.append(len(answer.encode()))
            owners.append(number)
    task = Language(vocab_size=model.config.vocab_size)
    nll = outputs_for(model, task, rows, title="evaluating", **how).values[:, NLL].astype(np.float64)
    records = []
    for metric, cost in (("accuracy", nll), ("accuracy_length_normalised", nll / np.array(lengths))):
        right = sum(
            int(np.argmin(cost[np.array(owners) == number])) == row["answer"] for number, row in enumerate(questions)
        )
        n = len(questions)
        records.append(Record(metric=metric, value=right / n, unit="fraction", n=n, spread=wilson(right, n)))
    return records


def predict(
    model: Any,
    inputs: Any,
    about: dict[str, Any],
    *,
    compute: ComputeConfig,
    batch_size: int,
    progress: Progress,
    tokenizer: Any = None,
) -> list[ScoredText]:
    """What the model makes of every text or sequence of tokens."""
    rows: list[Any] = [inputs[i] for i in range(len(inputs))]
    decode = None
    if _are_texts(rows):
        own = _vocabulary(model, about, tokenizer).tokenizer
        assert own is not None
        rows, decode = [own.encode(text) for text in rows], own.decode
    if any(len(row) < 2 for row in rows):
        raise UserError("a text must have at least 2 tokens, of which the first one is not predicted")
    _check_tokens(model, rows)
    task = Language(vocab_size=model.config.vocab_size)
    sums = outputs_for(
        model, task, rows, batch_size=batch_size, compute=compute, title="predicting", progress=progress
    ).values
    found = []
    for row, (nll, count) in zip(rows, sums[:, [NLL, COUNT]].astype(np.float64), strict=True):
        with torch.inference_mode():
            logits = model(torch.as_tensor(row).long()[None].to(compute.device))[0][0, -1].float()
        best = logits.softmax(-1)[: model.config.vocab_size].topk(min(TOP, model.config.vocab_size))
        following = {
            decode([token]) if decode else token: p
            for token, p in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        }
        loss = float(nll / count)
        found.append(ScoredText(int(count), loss, math.exp(min(loss, 700)), following))
    return found


def generate(model: Any, prompts: Any, about: dict[str, Any], tokenizer: Any = None, **options: Any) -> list[Generated]:
    """Continuations of texts, or of sequences of tokens; for the options see `generation.generate`."""
    if not (isinstance(prompts, str) or (isinstance(prompts, (list, tuple)) and isinstance(prompts[0], str))):
        return continuations(model, prompts, **options)
    own = _vocabulary(model, about, tokenizer).tokenizer
    assert own is not None
    texts = [prompts] if isinstance(prompts, str) else prompts
    ends = find_ends(about["folder"], own) if "folder" in about else () if own.eos is None else (own.eos,)
    options = {"eos": [end for end in ends if end < model.config.vocab_size]} | options
    return continuations(model, [own.encode(text) for text in texts], decode=own.decode, **options)

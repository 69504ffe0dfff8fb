"""Translation from Python: pairs of texts to what `fit`, `evaluate` and `predict` need."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ssmlab.core.device import ComputeConfig
from ssmlab.core.errors import UserError
from ssmlab.core.progress import Progress
from ssmlab.core.record import Record
from ssmlab.data.pairs.config import PairConfig
from ssmlab.data.pairs.marian import load_words
from ssmlab.data.pairs.reader import read_pairs
from ssmlab.data.pairs.subwords import LEAST, train_subwords
from ssmlab.generation.options import BeamOptions
from ssmlab.tasks.items import name_of, some_items
from ssmlab.tasks.opening import kind_of_network
from ssmlab.tasks.translate.batches import EvaluationBatches, Marks, TrainingBatches, joined
from ssmlab.tasks.translate.decoding import Decoding
from ssmlab.tasks.translate.scores import EvaluationSet, records_of, require, score_lines, validation_scores
from ssmlab.tasks.translate.task import Translate
from ssmlab.tasks.translate.translator import Translation, translate
from ssmlab.training.predict import predict as outputs_for

ABOUT = ("tokenizer", "source", "target", "beams", "length_penalty")
TRAINING = ("label_smoothing", "tokens_per_batch", "updates_per_evaluation")
TOKENS = 4096  # of a side of a batch, where nothing says it


def _words(model: Any, about: dict[str, Any], given: Any = None) -> Any:
    """The vocabulary that is given, else what the model has, in its folder or since it was trained."""
    given = given or about.get("folder") or getattr(model, "tokenizer", None)
    if given is None:
        raise UserError("nothing says what the model's tokens are; give tokenizer=, an object or a tokenizer.json")
    words = load_words(given) if isinstance(given, str | Path) else given
    if words.size > model.config.vocab_size:
        raise UserError(
            f"the tokenizer has {words.size} tokens, {name_of(model)} has {model.config.vocab_size}; give vocab_size="
            f"{words.size} where it is created, or another tokenizer=..."
        )
    return words


def _sides(data: Any) -> tuple[list[str], list[str]]:
    """Sources and targets of a dataset of pairs."""
    pairs = [data[i] for i in range(len(data))] if hasattr(data, "__len__") else list(data)
    for i, pair in enumerate(pairs):
        if not (isinstance(pair, Sequence) and len(pair) == 2 and all(isinstance(text, str) for text in pair)):
            raise UserError(f"item {i} must be a pair of texts, (source, target), got {pair!r:.60}")
    return [source for source, _ in pairs], [target for _, target in pairs]


def prepare(
    model: Any, train: Any, val: Any, given: dict[str, Any]
) -> tuple[nn.Module, Translate, Any, Any, dict[str, Any]]:
    """Model, task, both parts as training reads them, and what texts go through.

    Args:
        train, val: pairs of texts, (source, target).
        given: tokenizer, an object or a file; None takes the model's own, or learns one from the training pairs, of as
            many subwords as the model has. source, target: codes of the languages, such as "en". label_smoothing;
            tokens_per_batch, of a side; updates_per_evaluation, 0: as many as the training pairs are batches.
    """
    if kind_of_network(model) != "translation":
        raise UserError(f"translate trains translation models, got {name_of(model)}; create_model('translation_...')")
    some_items(train, 1)
    known, sides = dict(getattr(model, "preprocess_config", {})), _sides(train)
    if not (given.get("tokenizer") or known.get("folder") or hasattr(model, "tokenizer")):
        if model.config.vocab_size < LEAST:
            raise UserError(
                f"a vocabulary has {LEAST} subwords or more, {name_of(model)} has {model.config.vocab_size}; give "
                "vocab_size=4000 where it is created"
            )
        model.tokenizer = train_subwords([*sides[0], *sides[1]], model.config.vocab_size)
    words = model.tokenizer = _words(model, known, given.get("tokenizer"))
    marks, tokens = Marks(words.sep, words.eos), int(given.get("tokens_per_batch", TOKENS))
    about = {"source": "", "target": ""} | known | {key: given[key] for key in ("source", "target") if key in given}
    about |= {"task": "translate", "separator_id": words.sep, "eos": words.eos, "pad": words.pad}
    about = {key: value for key, value in about.items() if key != "folder"}
    examples = joined(words.encode_all(sides[0]), words.target.encode_all(sides[1]), 1, False, 0)
    batches = TrainingBatches(*examples, tokens, int(given.get("updates_per_evaluation", 0)), marks)
    task = Translate(
        vocab_size=words.size, label_smoothing=float(given.get("label_smoothing", 0.0)), marks=marks,
        decode=None if val is None else _decoder(words, val, about),
    )  # fmt: skip
    return model, task, batches, None if val is None else _batches(words, _sides(val), tokens), about


def _batches(words: Any, sides: tuple[list[str], list[str]], tokens: int) -> EvaluationBatches:
    encoded = words.encode_all(sides[0]), words.target.encode_all(sides[1])
    return EvaluationBatches(*encoded, tokens, Marks(words.sep, words.eos))


def _decoder(words: Any, data: Any, about: dict[str, Any]) -> Any:
    """Greedy scores of a validation part, a function of the network."""
    require("sacrebleu")
    found = EvaluationSet(*_sides(data), source=about["source"], target=about["target"])

    def decode(network: nn.Module) -> dict[str, float]:
        return validation_scores(found, _translated(network, words, found.sources, beams=1)[0])

    return decode


def _translated(
    network: Any, words: Any, texts: Sequence[str], beams: int, length_penalty: float = 1.0, progress: Any = None
) -> tuple[list[str], list[bool]]:
    """Translations, and which of them are as long as allowed."""
    how = Decoding(
        separator=words.sep, eos=words.eos, suppress=(words.pad,),
        options=BeamOptions(beams=beams, length_penalty=length_penalty),
    )  # fmt: skip
    sources = [words.encode(text) if text.strip() else [] for text in texts]
    found = how.lines(network.eval(), sources, progress)
    return [words.target.decode(one.tokens) for one in found], [one.cut for one in found]


def read(
    path: Path, about: dict[str, Any], part: str, recipe: Any, run: Any, given: dict[str, Any], progress: Progress
) -> tuple[Any, dict[str, Any]]:
    """The pairs in a path, or a part of a run's own, and their options.

    Args:
        recipe, run: of the run that trained the model and its data, where these are meant; else None.
    """
    if recipe is not None and run is not None:
        config = recipe.evaluation
        how = {"beams": config.beams, "length_penalty": config.length_penalty, "bootstrap": config.bootstrap}
        return list(run.pairs[part]), how
    found = read_pairs(PairConfig(path=str(path), source=about.get("source", ""), target=about.get("target", "")))
    return list(found.parts[part]), {}


def evaluate(
    model: Any,
    data: Any,
    about: dict[str, Any],
    *,
    compute: ComputeConfig,
    batch_size: int,
    progress: Progress,
    beams: int = 5,
    length_penalty: float = 1.0,
    bootstrap: int = 1000,
    source: str = "",
    target: str = "",
) -> list[Record]:
    """BLEU and chrF++ with signatures and 95 % intervals, what went wrong, and the loss of the references.

    Args:
        data: pairs of texts, (source, target).
    """
    words, sides = _words(model, about, about.get("tokenizer")), _sides(data)
    languages = {"source": source or about.get("source", ""), "target": target or about.get("target", "")}
    found = EvaluationSet(*sides, **languages)
    task = Translate(vocab_size=words.size, marks=Marks(words.sep, words.eos))
    sums = outputs_for(model, task, _batches(words, sides, TOKENS), batch_size=1, compute=compute).values
    units = {"loss": "nats", "token_accuracy": "fraction"}
    records = [
        Record(metric=name, value=value, unit=units.get(name), n=len(data))
        for name, value in task.validation(sums).items()
    ]
    progress.start("translating", len(data), unit="sentences", per_step=1)
    try:
        lines, cut = _translated(model, words, sides[0], beams, length_penalty, progress)
    finally:
        progress.stop()
    return [*records_of(found, score_lines(found, lines, cut), bootstrap), *records]


def predict(
    model: Any, inputs: Any, about: dict[str, Any], *, compute: ComputeConfig, batch_size: int, progress: Progress
) -> list[Translation]:
    """The translation of every text; `ssmlab.translate` has more options."""
    options = {key: about[key] for key in ("beams", "length_penalty") if key in about}
    tokenizer = _words(model, about, about.get("tokenizer"))
    return translate(model, list(inputs), tokenizer=tokenizer, device=compute.device, **options)

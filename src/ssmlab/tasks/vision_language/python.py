"""Vision-language models from Python: questions about pictures to what `fit`, `evaluate` and `predict` need."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from ssmlab.core.device import ComputeConfig
from ssmlab.core.errors import DataError, UserError
from ssmlab.core.progress import Progress
from ssmlab.core.record import Record
from ssmlab.data.conversations import Conversation, find_template, read_conversations
from ssmlab.data.conversations.llava import read_llava
from ssmlab.data.text.tokenizers import ByteTokenizer, find_ends, find_tokenizer, load_tokenizer
from ssmlab.models.vision_language.encoder import FeatureCache
from ssmlab.models.vision_language.reading import Answer
from ssmlab.tasks.items import name_of, some_items
from ssmlab.tasks.opening import kind_of_network
from ssmlab.tasks.vision_language.answering import answer_all, answer_records, retrieval_records
from ssmlab.tasks.vision_language.examples import SHOWN, Examples, tokens_of
from ssmlab.tasks.vision_language.experiment import look_records
from ssmlab.tasks.vision_language.recipe import PARTS
from ssmlab.tasks.vision_language.task import VisionLanguage
from ssmlab.tasks.vision_language.use import Voice
from ssmlab.training.predict import predict as outputs_for

ABOUT = ("tokenizer", "template", "length", "answers", "max_tokens", "bootstrap")
TRAINING = ("trained",)
LENGTH = 2048  # positions of a record, where nothing says it
FORM = '(picture, question, answer), {"image", "conversations"} as LLaVA has it, or what read_conversations gives'


def _ready(model: Any, about: dict[str, Any], given: dict[str, Any]) -> Any:
    """The model with the tokenizer and the template that are given, else its own, else those of its folder, else bytes.

    Raises:
        UserError: it is no vision-language model, or its tokens are no bytes and nothing says what they are.
    """
    if kind_of_network(model) != "vision_language":
        raise UserError(
            f"vision_language takes vision-language models, got {name_of(model)}; create_model('llava_...')"
        )
    size, words = model.language.config.padded_vocab, given.get("tokenizer")
    ends: Sequence[int] = ()
    own, template = model.speech, given.get("template") or about.get("template") or model.config.template
    if isinstance(words, str | Path):
        words = load_tokenizer(words)
    elif words is None and own is not None:
        words, ends = own.tokenizer, own.ends
        template = given.get("template") or own.template
    elif words is None and "folder" in about:
        words = find_tokenizer(about["folder"], size)
        ends = find_ends(about["folder"], words)
    elif words is None and model.language.config.vocab_size > ByteTokenizer.size:
        words = ByteTokenizer()
    if words is None:
        raise UserError("nothing says what the model's tokens are; give tokenizer=, an object or a tokenizer.json")
    if isinstance(words, ByteTokenizer) and words.eos is None:
        words.eos = ByteTokenizer.size
    if words.size + (words.eos == words.size) > size:
        raise UserError(
            f"the tokenizer has {words.size} tokens, {name_of(model)} has {size}; give its language model "
            f"vocab_size={words.size + 1} where it is created, or another tokenizer=..."
        )
    model.speech = Voice(words, find_template(template) if isinstance(template, str) else template, ends)
    return model


def conversations_of(data: Any, pictures: dict[str, Any], *, answered: bool = True) -> list[Conversation]:
    """Items of a dataset as conversations.

    Args:
        data: items (picture, question, answer), the picture a path, one of Pillow, an array (h, w, 3), a list of these
            or None; LLaVA's dictionaries; or conversations as `read_conversations` gives them.
        pictures: gets those that are no files, under new names, which the conversations have.
        answered: False takes (picture, question) too.
    Raises:
        UserError: an item is of another form. DataError: records that cannot be used, all of them.
    """
    items = [data[i] for i in range(len(data))] if hasattr(data, "__len__") else list(data)
    rows, found = list[Any](), list[Conversation]()

    def named(picture: Any) -> str:
        if not isinstance(picture, str | Path):
            pictures[name := f"picture {len(pictures)}"] = picture
            return name
        if not Path(picture).is_file():
            raise UserError(f"there is no file {picture}; give the path of an image, a picture of Pillow or an array")
        return str(picture)

    for i, item in enumerate(items):
        if isinstance(item, Conversation):
            found.append(item)
            continue
        if isinstance(item, dict):
            row = dict(item)
            several = row.pop("image", row.pop("images", None))
        elif isinstance(item, Sequence) and not isinstance(item, str) and len(item) in ((3,) if answered else (2, 3)):
            several, *texts = item
            row = dict(zip(("question", "answer"), texts, strict=False)) if answered else {"text": texts[0]}
        else:
            raise UserError(f"item {i} must be {FORM}, got {item!r:.60}")
        several = [] if several is None else several if isinstance(several, list) else [several]
        rows.append(row | {"image": [named(picture) for picture in several]})
    if found and rows:
        raise UserError(f"items are of one form, {FORM}, got two")
    if rows:
        made = read_llava(rows, True, False, answered)
        if made.problems:
            raise DataError(
                f"{len(made.problems):,} of {len(rows):,} items cannot be used", list(map(str, made.problems))
            )
        found = [Conversation(r.index, r.id, tuple(map(Path, r.images)), r.turns, r.source) for r in made.rows]
    return found


def _opener(pictures: dict[str, Any], model: Any) -> Callable[[Any], Any]:
    return lambda key: model.speech.picture(pictures.get(str(key), key))


def prepare(
    model: Any, train: Any, val: Any, given: dict[str, Any]
) -> tuple[nn.Module, VisionLanguage, Any, Any, dict[str, Any]]:
    """Model, task, both parts as training reads them, and what conversations go through.

    Args:
        train, val: see `conversations_of`.
        given: tokenizer, an object or a file; template, the form of a conversation; length, positions of a record at
            most; trained, the parts that learn, ("projector", "language") where it is not given.
    """
    some_items(train, 1)
    about = dict(getattr(model, "preprocess_config", {}))
    network = _ready(model, about, given)
    trained = given.get("trained", PARTS[1:])
    trained = (trained,) if isinstance(trained, str) else tuple(trained)
    if not trained or any(name not in PARTS for name in trained):
        raise UserError(f"trained must name some of {', '.join(PARTS)}, got {', '.join(map(str, trained)) or 'none'}")
    network.requires_grad_(False)
    for name in trained:
        getattr(network, name).requires_grad_(True)
    length, cache = int(given.get("length", LENGTH)), None if "encoder" in trained else FeatureCache(network.encoder)
    pictures: dict[str, Any] = {}  # of both parts, whose names must differ
    parts = [None if part is None else _examples(network, part, cache, length, pictures) for part in (train, val)]
    about = {"task": "vision_language", "template": network.speech.template.name, "length": length}
    return network, VisionLanguage(), *parts, about


def _examples(network: Any, data: Any, cache: FeatureCache | None, length: int, pictures: dict[str, Any]) -> Examples:
    records = conversations_of(data, pictures)
    speech = network.speech
    rows = tokens_of(records, speech.template, speech.tokenizer, network.image_tokens, length).rows
    return Examples(records, rows, network.encoder, cache, pictures=pictures)


def read(
    path: Path, about: dict[str, Any], part: str, recipe: Any, run: Any, given: dict[str, Any], progress: Progress
) -> tuple[Any, dict[str, Any]]:
    """The records in a path, or a part of a run's own, and their options.

    Args:
        recipe, run: of the run that trained the model and its data, where these are meant; else None.
    """
    if recipe is None or run is None:
        return read_conversations(path), {}
    config = recipe.evaluation
    how = {name: getattr(config, name) for name in ("answers", "max_tokens", "retrieval", "batch_size", "bootstrap")}
    return run.parts[part], how | {"length": recipe.data.length, "train": run.parts["train"]}


def evaluate(
    model: Any,
    data: Any,
    about: dict[str, Any],
    *,
    compute: ComputeConfig,
    batch_size: int,
    progress: Progress,
    answers: int = 64,
    max_tokens: int = 64,
    bootstrap: int = 1000,
    retrieval: int = 0,
    train: Sequence[Conversation] = (),
    length: int | None = None,
    **given: Any,
) -> list[Record]:
    """The loss of the answers with the own image, another and a grey one, whether the model looks, and how many of its
    own answers are the references'.

    Args:
        data: see `conversations_of`.
        answers: so many questions are answered; 0: none. max_tokens: of an answer.
        retrieval: images among which a caption's image is looked for. train: of the run, see `answer_records`.
        given: tokenizer, template.
    """
    network, pictures = _ready(model, about, given), dict[str, Any]()
    records, speech = conversations_of(data, pictures), network.speech
    if not records:
        raise UserError("there is nothing to evaluate on: the data have no items")
    most, cache = int(length or about.get("length", LENGTH)), FeatureCache(network.encoder)
    rows = tokens_of(records, speech.template, speech.tokenizer, network.image_tokens, most).rows
    sums = {
        shown: outputs_for(
            network, VisionLanguage(), Examples(records, rows, network.encoder, cache, shown, pictures),
            batch_size=batch_size, compute=compute, title=f"{shown} image", progress=progress,
        ).values
        for shown in SHOWN
    }  # fmt: skip
    found = look_records(VisionLanguage(), sums, np.array([bool(record.images) for record in records]), bootstrap)
    found += answer_records(
        network, records, train, answers=answers, max_tokens=max_tokens, batch_size=batch_size, progress=progress,
        picture=_opener(pictures, network),
    )  # fmt: skip
    return found + retrieval_records(network, records, train, retrieval, progress)


def predict(
    model: Any,
    items: Sequence[Any],
    about: dict[str, Any],
    *,
    compute: ComputeConfig,
    batch_size: int,
    progress: Progress,
) -> list[Answer]:
    """An answer to every (picture, question), as if each were alone.

    Args:
        about: max_tokens, tokenizer and template among others.
    """
    network, pictures = _ready(model, about, about), dict[str, Any]()
    records = conversations_of(items, pictures, answered=False)
    return answer_all(
        network, records, batch_size=batch_size, picture=_opener(pictures, network), progress=progress,
        max_tokens=int(about.get("max_tokens", 64)),
    )  # fmt: skip

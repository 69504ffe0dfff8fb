"""What vision-language models read: conversations about images, their parts and their tokens. torch is not imported."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ssmlab.core.errors import DataError
from ssmlab.core.files import write_atomically
from ssmlab.core.progress import Progress
from ssmlab.data.conversations import (
    HUMAN,
    MODEL,
    Conversation,
    Found,
    Turn,
    find_conversations,
    find_template,
    text_of,
    without_marks,
)
from ssmlab.data.conversations.nlvr import group_of
from ssmlab.data.conversations.nlvr_questions import rule_questions
from ssmlab.data.conversations.reader import listed
from ssmlab.data.splits import held_out, split_hash
from ssmlab.data.synthetic.scenes import generated_scenes
from ssmlab.data.text.tokenizers import FILES, ByteTokenizer, JsonTokenizer, Tokenizer, load_tokenizer
from ssmlab.models.catalogue import user_folder
from ssmlab.tasks.vision_language.recipe import LINES

GENERATED = "generated"
SCENES = 240
NAMES = {"train": "training", "val": "validation", "test": "test"}
END = "<|endoftext|>"
TEMPLATE = "vicuna_v1"  # where nothing names one
DESCRIBE = "Describe the picture."


@dataclass(frozen=True, kw_only=True)
class Album:
    """All parts of a run's data.

    Args:
        parts: records of train, val and test.
        stages: records of stages that have their own, by the name of the stage.
        tokenizer: of the recipe; None where every model brings its own.
        describe: what run.json says about the data.
    """

    parts: dict[str, list[Conversation]]
    stages: dict[str, list[Conversation]]
    tokenizer: Tokenizer | None
    describe: dict
    cache: dict[Any, Any] = field(default_factory=dict, repr=False)


def load_conversations(recipe: Any, progress: Progress | None = None) -> Album:
    """Read and check everything that a recipe names: records, images, tokenizer.

    Raises:
        DataError: with every record that cannot be used, by its place in its file.
    """
    config, progress, notes = recipe.data, progress or Progress(), list[str]()
    progress.say(f"reading {config.path}")
    path, images = Path(config.path).expanduser(), config.images
    if config.path == GENERATED:
        folder = user_folder("XDG_CACHE_HOME", ".cache") / "scenes"
        path, images = folder / "scenes.json", str(folder)
        write_atomically(path, json.dumps(generated_scenes(folder, SCENES)))
    whole = _read(path, images, config.kind, config, notes, progress)
    parts = {"train": whole.conversations}
    for part in ("val", "test"):
        if other := getattr(config, part):
            parts[part] = _read(Path(other).expanduser(), images, "", config, notes, progress).conversations
    if config.questions == "rules":
        how = {"test_share": config.test_fraction, "seed": config.split_seed}
        parts |= {part: rule_questions(parts["train"], part, **how).conversations for part in ("test", "train")}
        notes.append("questions are made from the description of the boxes")
    first = parts["train"][0].source if parts["train"] else {}
    if {"choices", "split"} <= first.keys():
        own_parts(parts, notes)
    for part in ("test", "val"):
        if part not in parts:
            hold_out(parts, part, config, notes, whole.images)
    check_apart(parts)
    if config.join is True:
        parts["train"] = one_by_image(parts["train"])
    if config.limit:
        parts = {part: found[: config.limit] for part, found in parts.items()}
        notes.append(f"at most {config.limit:,} records of each part are used")
    stages = {}
    for stage in recipe.training.stages:
        if stage.path:
            stages[stage.name] = stage_records(stage, config, parts["test"], notes, progress)
        elif stage.kind == LINES:
            stages[stage.name] = as_lines([record.answer for record in parts["train"]])
    tokenizer = tokenizer_of(recipe, [*parts["train"], *(c for found in stages.values() for c in found)], notes)
    shown = {part: len({image for c in found for image in c.images}) for part, found in parts.items()}
    ids: dict[str, Sequence[str]] = {
        part: [f"{part} {i} {c.id}" for i, c in enumerate(found)] for part, found in parts.items()
    }
    describe = {
        "name": path.stem, "format": "conversations", "path": config.path, "items": "records",
        "counts": {part: len(parts[part]) for part in NAMES}, "images": shown, "split_hash": split_hash(ids),
        "classes": [], "notes": notes,
    }  # fmt: skip
    return Album(parts=parts, stages=stages, tokenizer=tokenizer, describe=describe)


def texts(records: Sequence[Conversation]) -> list[str]:
    """All that is said in records, without marks of images."""
    return [without_marks(turn.text) for record in records for turn in record.turns]


def group(record: Conversation) -> str:
    """What stays in one part: the records of an image, of one of NLVR's sentences, of a question without one."""
    if "identifier" in record.source:
        return group_of(record)
    return str(record.images[0]) if record.images else record.turns[0].text


def _read(path: Path, images: str, kind: str, config: Any, notes: list[str], progress: Progress) -> Found:
    found = find_conversations(
        path, images or None, kind=kind or None, text_only=config.text_only, image_first=config.image_first
    )
    if found.problems and not config.skip_bad:
        total = len(found.conversations) + len(found.problems)
        raise DataError(
            f"{path}: {len(found.problems):,} of {total:,} records cannot be used; mend them, or leave them out with "
            "data.skip_bad=true",
            listed(found),
        )
    notes += [f"left out: {line}" for line in listed(found)]
    return found


def own_parts(parts: dict[str, list[Conversation]], notes: list[str]) -> None:
    """ScienceQA's own parts, where the records say them."""
    found: dict[str, list[Conversation]] = {}
    for record in parts["train"]:
        found.setdefault(str(record.source.get("split", "train")), []).append(record)
    if "train" in found:
        parts |= {part: found[part] for part in NAMES if part in found}
        notes.append("the parts are those of the data")


def one_by_image(records: Sequence[Conversation]) -> list[Conversation]:
    """Records of the same images as one conversation, their turns one after the other; those without images stay."""
    found: dict[Any, Conversation] = {}
    for n, record in enumerate(records):
        first = found.get(record.images or n)
        turns = record.turns
        if first is not None:  # the images stand in the first question alone
            turns = (*first.turns, *(Turn(t.role, without_marks(t.text)) if t.role == HUMAN else t for t in turns))
        found[record.images or n] = replace(first or record, turns=turns)
    return list(found.values())


def hold_out(parts: dict[str, list[Conversation]], part: str, config: Any, notes: list[str], images: Path) -> None:
    """Take a part out of the training part, whole groups only; it is the same wherever the folder of images lies."""
    records, place = parts["train"], os.path.join(os.path.abspath(images), "")
    fraction = config.val_fraction if part == "val" else config.test_fraction
    groups = [group(record).removeprefix(place).replace(os.sep, "/") for record in records]
    chosen = held_out(
        [record.id for record in records], [0] * len(records), groups, fraction=fraction, seed=config.split_seed,
        part=part,
    )  # fmt: skip
    if not chosen:
        raise DataError(f"{config.path} has {len(records)} records, too few to divide; give data.{part}=FILE")
    parts[part] = [record for i, record in enumerate(records) if i in chosen]
    parts["train"] = [record for i, record in enumerate(records) if i not in chosen]
    notes.append(
        f"{len(chosen):,} of {len(records):,} records are the {NAMES[part]} part, by their image's or sentence's hash"
    )


def check_apart(parts: dict[str, list[Conversation]]) -> None:
    """No image may be in two parts, or a model would be asked about what it has learned.

    Raises:
        DataError: some are; all are listed.
    """
    where: dict[str, str] = {}
    shared = []
    for part, records in parts.items():
        for name in {group(record) for record in records if record.images}:
            if where.setdefault(name, part) != part:
                shared.append(f"{name} is in the {NAMES[where[name]]} and the {NAMES[part]} part")
        if not records:
            raise DataError(f"the {NAMES[part]} part has no records; give other files or fractions")
    if shared:
        raise DataError(f"{len(shared):,} images or sentences are in two parts; leave them out of one", sorted(shared))


def stage_records(
    stage: Any, config: Any, test: Sequence[Conversation], notes: list[str], progress: Progress
) -> list[Conversation]:
    """The records of a stage that has its own."""
    path = Path(stage.path).expanduser()
    if stage.kind != LINES:
        found = _read(path, stage.images or config.images, stage.kind, config, notes, progress).conversations
        seen = {group(record) for record in test} | {str(image) for record in test for image in record.images}
        kept = [r for r in found if group(r) not in seen and seen.isdisjoint(map(str, r.images))]
        if len(kept) < len(found):
            notes.append(f"{stage.name}: {len(found) - len(kept):,} records about images of the test part are left out")
        return kept
    try:
        lines = [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}); {stage.name} takes a text of lines") from error
    known = {_plain(text) for text in texts(test)}
    kept_lines = [line for line in lines if _plain(line) not in known]
    if len(kept_lines) < len(lines):
        notes.append(f"{stage.name}: {len(lines) - len(kept_lines):,} lines that the test part has are left out")
    return as_lines(kept_lines)


def as_lines(lines: Sequence[str]) -> list[Conversation]:
    """Texts as answers that no image comes before."""
    return [
        Conversation(i, f"line {i}", (), (Turn(HUMAN, DESCRIBE), Turn(MODEL, line))) for i, line in enumerate(lines)
    ]


def _plain(text: str) -> str:
    """Letters and digits of a text in lower case, by which two are taken for the same."""
    return " ".join("".join(c if c.isalnum() else " " for c in text.casefold()).split())


def tokenizer_of(recipe: Any, records: Sequence[Conversation], notes: list[str]) -> Tokenizer | None:
    """That of the recipe; one that is learned where models have none of their own; else None."""
    if recipe.data.tokenizer:
        found = load_tokenizer(recipe.data.tokenizer)
        if isinstance(found, ByteTokenizer):
            found.eos = 256
        return found
    own = [model.weights or model.language.get("weights") for model in recipe.models]
    if all(own):
        return None
    if any(own):
        raise DataError("some models bring a tokenizer and some do not; give one to all with data.tokenizer=FILE")
    stages = [stage.template for stage in recipe.training.stages]
    names = {name or TEMPLATE for name in (*(model.template for model in recipe.models), *filter(None, stages))}
    lines = texts(records)  # and what templates put around them, which would else be read letter by letter
    for template in map(find_template, sorted(names)):
        lines += [without_marks(text_of(template.pieces(record.turns))) for record in records]
    found = learned_tokenizer(lines, recipe.data.vocabulary)
    notes.append(f"{found.size:,} tokens, learned from the training part")
    return found


def learned_tokenizer(lines: Sequence[str], size: int) -> JsonTokenizer:
    """A BPE over bytes, learned from texts; a text begins with the token that ends one. Kept in the user's cache."""
    from tokenizers import Tokenizer as Rust
    from tokenizers import decoders, models, pre_tokenizers, processors, trainers

    digest = hashlib.sha256(f"1 {size}\n".encode() + "\n".join(lines).encode("utf-8", "replace")).hexdigest()
    folder = user_folder("XDG_CACHE_HOME", ".cache") / "vocabularies" / digest[:32]
    file = folder / FILES[0]
    if not file.is_file():
        words = Rust(models.BPE())
        words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        words.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=size, min_frequency=2, special_tokens=[END],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
        )  # fmt: skip
        words.train_from_iterator((line.encode("utf-8", "replace").decode() for line in lines), trainer)
        words.post_processor = processors.TemplateProcessing(single=f"{END} $A", special_tokens=[(END, 0)])
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(file, words.to_str())
    return JsonTokenizer(file)

"""Questions of records answered in batches; likelihoods of texts after images; memory and time over many turns."""

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ssmlab.core.files import write_atomically
from ssmlab.core.progress import Progress
from ssmlab.core.record import Record
from ssmlab.core.statistics import wilson
from ssmlab.data.conversations import HUMAN, MARK, MODEL, Conversation, Turn, encode, without_marks
from ssmlab.generation.generate import generate
from ssmlab.models.vision_language.pixels import grey
from ssmlab.models.vision_language.reading import Answer, Read, answered, bytes_of, joined, question_tokens
from ssmlab.tasks.vision_language.caption_scores import score_captions
from ssmlab.tasks.vision_language.data import DESCRIBE
from ssmlab.tasks.vision_language.retrieval import retrieve

FILE = "answers.jsonl"  # in a model's folder
PRIOR = 48  # images of the training part that say how likely a caption is without its image
WRITTEN, TRIALS = 8, 5  # tokens that are written after every turn, and how often
LONGEST = 200  # tokens of a text whose likelihood is computed at once


def answer_all(
    model: Any,
    records: Sequence[Conversation],
    *,
    batch_size: int = 8,
    picture: Callable[[Any], Any] | None = None,
    progress: Progress | None = None,
    title: str = "answers",
    **options: Any,
) -> list[Answer]:
    """The model's answer to the last question of every record, in batches; each is as if it were alone.

    An image that several neighbouring records are about is read once.

    Args:
        records: the last turn is the human's, or an answer, which is left out.
        picture: what stands for an image; None opens its file.
        options: of `reading.answered`.
    """
    show = picture or model.speech.picture
    progress = progress or Progress()
    found: list[Answer | None] = [None] * len(records)
    order = sorted(range(len(records)), key=lambda i: _kind(records[i]))
    progress.start(title, len(records), unit="questions", per_step=1)
    reads: dict[tuple, Read] = {}
    done = 0
    try:
        while done < len(order):
            kind = _kind(records[order[done]])
            batch = [i for i in order[done : done + batch_size] if _kind(records[i]) == kind]
            rows, states = [], []
            kept: dict[tuple, Read] = {}
            for i in batch:
                tokens, read = prompt_of(model, records[i], reads | kept, show)
                kept[records[i].images] = read
                rows.append(tokens)
                states.append(read.state)
            reads = kept
            state = model.read(rows, None, joined(states))
            model.counts.question_tokens += sum(map(len, rows))
            for i, answer in zip(batch, answered(model, state, **options), strict=True):
                found[i] = answer
            done += len(batch)
            progress.update(done)
    finally:
        progress.stop()
    return [answer for answer in found if answer is not None]


def _kind(record: Conversation) -> tuple[int, bool]:
    """What the records of a batch share: how many images, and whether these are in front of everything."""
    return len(record.images), _marked_later(record)


def _marked_later(record: Conversation) -> bool:
    """Whether an image stands anywhere but in front of the first question."""
    first = record.turns[0].text
    return (bool(record.images) and not first.startswith(MARK)) or any(MARK in turn.text for turn in record.turns[1:])


def prompt_of(
    model: Any, record: Conversation, reads: dict[tuple, Read], show: Callable[[Any], Any]
) -> tuple[list[int], Read]:
    """The tokens of a record's question behind its images, and the images, read."""
    turns = list(record.turns[:-1] if record.turns[-1].role == MODEL else record.turns)
    if _marked_later(record):  # read as a whole, image by image where the marks are
        pictures = [show(image) for image in record.images]
        tokens = model.project(model.encode(pictures))
        whole = model.speech.prompt([(t.role, t.text) for t in turns], [tokens.shape[1]] * len(pictures))
        last = max(i for i, token in enumerate(whole) if token < 0) + 1
        state = model.read([whole[:last]], [tokens.flatten(0, 1)])
        model.counts.prefix_tokens += last
        return whole[last:], Read(model, state, (), tuple(whole[:last]))
    read = reads.get(record.images) or model.read_image([show(image) for image in record.images])
    plain = [(turn.role, without_marks(turn.text) if turn.role == HUMAN else turn.text) for turn in turns]
    count = read.prefix.count(-1) // max(1, len(record.images))
    whole = model.speech.prompt(plain, [count] * len(record.images))
    return whole[len(read.prefix) :], read


@torch.no_grad()
def likelihoods(model: Any, states: Sequence[Read], texts: Sequence[str], question: str = DESCRIBE) -> np.ndarray:
    """log p(text | image), natural, (images, texts): each image is read once, and forked for all texts."""
    speech = model.speech
    found = np.zeros((len(states), len(texts)))
    for i, read in enumerate(states):
        after = read.after(question)
        count = [read.prefix.count(-1)] if read.images else []
        before = len(speech.prompt([(HUMAN, question)], count))
        asked = Turn(HUMAN, f"{MARK}\n" * len(count) + question)
        rows = []
        for text in texts:  # an answer as it is learned, with its end
            pieces = speech.template.pieces([asked, Turn(MODEL, text)])
            rows.append(encode(pieces, speech.tokenizer, count).ids[before:].tolist()[:LONGEST])
        for begin in range(0, len(rows), 64):
            part = rows[begin : begin + 64]
            forked = after.select([0] * len(part))
            longest = max(map(len, part))
            ids = torch.tensor([row + [0] * (longest - len(row)) for row in part], device=model.device)
            logits, _ = model.language(ids, forked.state)
            whole = torch.cat([forked.logits[:, None], logits[:, :-1]], 1).float().log_softmax(-1)
            values = whole.gather(-1, ids[..., None])[..., 0].cpu().numpy()
            for j, row in enumerate(part):
                found[i, begin + j] = values[j, : len(row)].sum()
    return found


def answer_records(
    network: Any,
    test: Sequence[Conversation],
    train: Sequence[Conversation] = (),
    *,
    answers: int,
    max_tokens: int,
    batch_size: int,
    progress: Progress,
    folder: Path | None = None,
    picture: Callable[[Any], Any] | None = None,
) -> list[Record]:
    """Answers to questions of the test part; how many are those of the records, with the own image and with a grey one,
    next to what the commonest answer of each kind of question would give. Where all questions are one, answers are
    captions, and are scored as such; the weights of words are those of the training part.

    Args:
        answers: questions that are asked, evenly from all. max_tokens: of an answer.
        folder: where the answers are kept in a file; None: nowhere.
        picture: see `answer_all`.
    """
    chosen = _spread(test, answers)
    if not chosen:
        return []
    how: dict[str, Any] = {"max_tokens": max_tokens, "batch_size": batch_size, "progress": progress}
    own = blind = answer_all(network, chosen, title="answers", picture=picture, **how)
    if any(record.images for record in chosen):
        colour = grey(next(iter(network.encoder)).config)
        blind = answer_all(network, chosen, title="answers to a grey image", picture=lambda image: colour, **how)
    lines = [
        {"question_id": r.id, "image": [image.name for image in r.images], "prompt": r.question, "text": a.text,
         "reference": r.answer, "grey": b.text, "reason": a.reason}
        for r, a, b in zip(chosen, own, blind, strict=True)
    ]  # fmt: skip
    if folder is not None:
        write_atomically(folder / FILE, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    records, n = [], len(chosen)
    kinds = [str(record.source.get("type", "")) for record in chosen]
    several = dict.fromkeys(kinds) if len(set(kinds)) > 1 else ()
    for class_, said in ((None, own), ("grey image", blind)):
        right = np.array([same(a.text, r.answer) for a, r in zip(said, chosen, strict=True)])
        records.append(_share("exact_match", class_, right))
        for kind in several:
            name = f"{kind}, grey image" if class_ else kind
            records.append(_share("exact_match", name, right[np.array(kinds) == kind]))
    best = {
        kind: Counter(_plain(r.answer) for r, own_kind in zip(chosen, kinds, strict=True) if own_kind == kind)
        for kind in kinds
    }
    common = {kind: counts.most_common(1)[0] for kind, counts in best.items()}
    records.append(
        Record(metric="commonest_answer", value=sum(k for _, k in common.values()) / n, unit="fraction", n=n)
    )
    if len(common) > 1:
        records += [
            Record(metric="commonest_answer", class_=kind, value=count / sum(best[kind].values()), unit="fraction",
                   n=sum(best[kind].values()))
            for kind, (_, count) in common.items()
        ]  # fmt: skip
    return records + caption_records(chosen, own, test, train)


def caption_records(
    chosen: Sequence[Conversation],
    answers: Sequence[Answer],
    test: Sequence[Conversation],
    train: Sequence[Conversation],
) -> list[Record]:
    """CIDEr-D and BLEU-4 of captions on their own images, on shuffled ones, and the difference."""
    if len({record.question for record in chosen}) > 1 or any(len(record.images) != 1 for record in chosen):
        return []
    written = {str(r.images[0]): a.text for r, a in zip(chosen, answers, strict=True)}
    if len(written) < 2:
        return []
    references = _by_image(test)
    scores = score_captions(
        written, {image: references[image] for image in written}, list(_by_image(train).values()) or None
    )
    records = []
    for metric in ("cider", "bleu"):
        for class_, name in ((None, metric), ("shuffled", f"{metric}_shuffled"), ("gain", f"{metric}_gain")):
            found = getattr(scores, name)
            records.append(
                Record(metric=f"caption_{metric}", class_=class_, value=found.value, n=scores.n,
                       spread=(found.low, found.high))
            )  # fmt: skip
    return records


def _by_image(records: Sequence[Conversation]) -> dict[str, list[str]]:
    """All answers about an image, of records with one."""
    found: dict[str, list[str]] = {}
    for record in records:
        if len(record.images) == 1:
            found.setdefault(str(record.images[0]), []).append(record.answer)
    return found


def _share(metric: str, class_: str | None, right: np.ndarray) -> Record:
    k, n = int(right.sum()), len(right)
    return Record(metric=metric, class_=class_, value=k / n, unit="fraction", n=n, spread=wilson(k, n))


def _plain(text: str) -> str:
    return " ".join(text.casefold().strip(" .").split())


def same(one: str, other: str) -> bool:
    """Whether two answers are one, upper and lower case, blanks and a last full stop aside."""
    return _plain(one) == _plain(other)


def _spread(records: Sequence[Conversation], count: int) -> list[Conversation]:
    """At most `count` records, evenly from all."""
    if count <= 0 or len(records) <= count:
        return list(records) if count > 0 else []
    return [records[i] for i in np.linspace(0, len(records) - 1, count).round().astype(int)]


def retrieval_records(
    network: Any, test: Sequence[Conversation], train: Sequence[Conversation], count: int, progress: Progress
) -> list[Record]:
    """Which image a caption is of, by log p(caption | image) - log p(caption), and the other way round.

    log p(caption) is what the caption has without its image, so that one that is likely after anything has no
    advantage: the mean over `PRIOR` images of the training part, or without any after a grey image. Only the search for
    a caption depends on it.

    Args:
        count: images of the test part, at most; 0: nothing is looked for.
    """
    chosen = _spread(_first_of_images(test), count)
    if len(chosen) < 2 or len({record.question for record in chosen}) > 1:  # answers to other questions are no captions
        return []
    progress.say(f"finding {len(chosen)} images by their texts, and texts by their images")
    question = chosen[0].question or DESCRIBE
    texts = [record.answer for record in chosen]
    others: list[Any] = [record.images[0] for record in _spread(_first_of_images(train), PRIOR)]
    others = others or [grey(next(iter(network.encoder)).config)]
    after, alone = (
        likelihoods(network, [network.read_image(image) for image in images], texts, question)
        for images in ([record.images[0] for record in chosen], others)
    )
    records = []
    for way, found in zip(("text of an image", "image of a text"), retrieve(-after, -alone.mean(0)), strict=True):
        for k, part in found.recall.items():
            records.append(
                Record(metric=f"recall_at_{k}", class_=way, value=part.value, unit="fraction", n=len(chosen),
                       spread=(part.low, part.high))
            )  # fmt: skip
    return records


def _first_of_images(records: Sequence[Conversation]) -> list[Conversation]:
    """The first record of every image, of records with one image and one question."""
    found: dict[Path, Conversation] = {}
    for record in records:
        if len(record.images) == 1 and len(record.turns) == 2:
            found.setdefault(record.images[0], record)
    return list(found.values())


def turn_records(network: Any, test: Sequence[Conversation], turns: int) -> list[Record]:
    """Seconds to the first word after an image, and over a conversation of many turns memory of the state and seconds a
    token.

    What is said is the same for all models, so that their conversations are of one length. A time is the shortest of
    `TRIALS`, which what else the machine does can only make longer.

    Args:
        turns: of the conversation; 0: nothing is measured.
    """
    first = next((record for record in test if record.images), None)
    if not turns or first is None:
        return []
    begin = time.perf_counter()
    read = network.read_image(list(first.images))
    seen = time.perf_counter() - begin
    begin = time.perf_counter()
    read.ask(DESCRIBE, max_tokens=1)
    asked = time.perf_counter() - begin
    records = [
        Record(metric="seconds_to_first_word", class_="image not read", value=seen + asked, unit="seconds", n=1),
        Record(metric="seconds_to_first_word", class_="image read", value=asked, unit="seconds", n=1),
    ]
    state, done, said = read.state, 0, list[tuple[str, str]]()
    for turn in range(1, turns + 1):
        said.append((HUMAN, DESCRIBE))
        tokens = question_tokens(read, said)
        state, done = network.read([tokens[done:]], None, state), len(tokens)
        times = []
        for _ in range(TRIALS):
            begin = time.perf_counter()
            generate(network.language, state, max_tokens=WRITTEN)
            times.append((time.perf_counter() - begin) / WRITTEN)
        records.append(Record(metric="turn_seconds_per_token", value=min(times), unit="seconds", step=turn, n=TRIALS))
        records.append(Record(metric="turn_state_bytes", value=bytes_of(state), unit="bytes", step=turn, n=1))
        said.append((MODEL, first.answer))
    return records

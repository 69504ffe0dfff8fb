"""The forms in which models read conversations, as data (templates.toml), rendered in pieces.

A piece is learned or it is not, and is tokenised alone: which tokens are learned is known by construction and not
counted in a second tokenisation. A prompt for an answer is the same pieces up to that answer, so its tokens are those
that the model was trained on.
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import NamedTuple

import numpy as np

from ssmlab.core.errors import DataError
from ssmlab.core.text import did_you_mean
from ssmlab.data.conversations.record import HUMAN, MARK, MODEL, Turn, without_marks
from ssmlab.data.text.tokenizers import Tokenizer

TEXT, BEGIN, END = "text", "begin", "end"
PLACES = ("place", "front")
_PARTS = ("{text}", "{images}")


@dataclass(frozen=True)
class Piece:
    """A stretch of a rendered conversation.

    text: "" where an image stands.
    learned: whether the model learns to write it.
    image: the number of the image in the conversation; None for text.
    kind: "text"; "begin" and "end" are the tokenizer's begin and end of a text, whose `text` is how the form writes it.
    """

    text: str
    learned: bool = False
    image: int | None = None
    kind: str = TEXT


@dataclass(frozen=True, kw_only=True)
class Template:
    """A form of conversations; templates.toml describes the fields."""

    name: str
    first: str
    human: str
    answer: str
    end: str
    system: str = ""
    end_token: bool = True
    images: str = "place"
    stop: tuple[str, ...] = ()
    source: str = ""

    def __post_init__(self) -> None:
        if not self.stop:
            object.__setattr__(self, "stop", (self.end,))
        for form in (self.first, self.human):
            if sum(form.count(part) for part in _PARTS) != 1:
                raise DataError(f"template {self.name}: {form!r} needs {' or '.join(_PARTS)} exactly once")
        if self.answer.count("{text}") != 1 or self.images not in PLACES:
            raise DataError(f"template {self.name}: an answer needs {{text}} once, images one of {', '.join(PLACES)}")

    def pieces(self, turns: Sequence[Turn], *, reply: bool = False) -> list[Piece]:
        """Turns as pieces, in order.

        Args:
            turns: human and model in turn, beginning with human.
            reply: the last turn is the human's and the model's answer follows: nothing is learned. Without it the last
                turn is the model's.
        Raises:
            DataError: turns in another order; an image in an answer, or after the first question in a form that has
                images in front.
        """
        roles = [turn.role for turn in turns]
        if roles != [HUMAN, MODEL] * (len(turns) // 2) + [HUMAN] * reply or not roles:
            last = "human" if reply else "model"
            raise DataError(
                f"turns must be human and model in turn and end with {last}, got {', '.join(roles) or 'none'}"
            )
        pieces: list[Piece] = []
        count = 0
        if self.images == "front":
            if any(MARK in turn.text for turn in turns[1:]):
                raise DataError(f"template {self.name} has images in front of the first question, got one later")
            count = turns[0].text.count(MARK)
            pieces += [Piece("", image=n) for n in range(count)]
        for n, turn in enumerate(turns):
            if turn.role == MODEL:
                if MARK in turn.text:
                    raise DataError(f"an answer holds {MARK}; images belong to questions")
                pieces.append(Piece(self.answer.replace("{text}", turn.text), not reply))
                pieces.append(Piece(self.end, not reply, kind=END if self.end_token else TEXT))
                continue
            form = (self.human if n else self.first).replace("{system}", self.system)
            if form.startswith("{begin}"):
                pieces.append(Piece("", kind=BEGIN))
                form = form.removeprefix("{begin}")
            text = without_marks(turn.text) if self.images == "front" else turn.text
            part = next(part for part in _PARTS if part in form)
            before, after = form.split(part)
            if part == "{images}":
                text = MARK * text.count(MARK)
            for i, stretch in enumerate(f"{before}{text}{after}".split(MARK)):
                if i:
                    pieces.append(Piece("", image=count))
                    count += 1
                if stretch:
                    pieces.append(Piece(stretch))
        return pieces


def text_of(pieces: Sequence[Piece]) -> str:
    """Pieces as one text for people, images as their marks."""
    return "".join(MARK if piece.image is not None else piece.text for piece in pieces)


class Encoded(NamedTuple):
    """A conversation as positions of a sequence; arrays of one length.

    ids: int32, -1 where a feature of an image stands.
    learned: bool, whether the model learns to write it.
    image_of: int32, the number of the image at this position; -1 for text.
    begin: positions in front that begin every text of this tokenizer, which `shorten` keeps.
    """

    ids: np.ndarray
    learned: np.ndarray
    image_of: np.ndarray
    begin: int = 0

    def __len__(self) -> int:
        return len(self.ids)


def encode(pieces: Sequence[Piece], tokenizer: Tokenizer, image_tokens: Sequence[int]) -> Encoded:
    """Pieces as positions; every text piece is tokenised alone.

    It begins as the tokenizer begins every text, before an image too. A tokenizer of words (Llama's) puts a blank in
    front of whatever it is given: there the blank that a piece begins with is taken away, and a piece that begins
    without one gets none, so that a text has the tokens that it has as a whole.

    Args:
        image_tokens: how many positions each image takes, in the order of the images.
    Raises:
        DataError: the tokenizer has no end of a text and the form needs one, or there are other images than numbers.
    """
    shown = sum(piece.image is not None for piece in pieces)
    if shown != len(image_tokens):
        raise DataError(f"the conversation has {shown} images, sizes are given of {len(image_tokens)}")
    plain, whole = tokenizer.encode("a"), tokenizer.encode("a", special=True)
    begin = whole[: next((i for i in range(len(whole)) if whole[i : i + len(plain)] == plain), 0)]
    words = tokenizer.encode("x a") == tokenizer.encode("x") + plain
    ids: list[int] = list(begin)
    learned, image_of = [False] * len(begin), [-1] * len(begin)
    before = BEGIN
    for piece in pieces:
        if piece.image is not None:
            tokens, number = [-1] * image_tokens[piece.image], piece.image
        elif piece.kind == BEGIN:
            tokens, number = list(begin), -1
        elif piece.kind == END:
            tokens, number = [end_of(tokenizer, piece.text)], -1
        else:
            tokens, number = _text_tokens(piece.text, tokenizer, words and before == TEXT), -1
        ids += tokens
        learned += [piece.learned] * len(tokens)
        image_of += [number] * len(tokens)
        before = "" if piece.image is not None else piece.kind
    return Encoded(np.array(ids, np.int32), np.array(learned, bool), np.array(image_of, np.int32), len(begin))


def end_of(tokenizer: Tokenizer, text: str) -> int:
    """The token that ends an answer: what the form writes, where the tokenizer has it as one token, else its own end.

    Raises:
        DataError: it has neither.
    """
    name_of = getattr(tokenizer, "name_of", lambda token: None)
    known = [
        token for token in (tokenizer.eos, *tokenizer.encode(text)) if token is not None and name_of(token) == text
    ]
    if known:
        return known[0]
    if tokenizer.eos is None:
        raise DataError(f"the tokenizer has neither {text!r} nor an end of a text; take another, or another template")
    return tokenizer.eos


def shorten(encoded: Encoded, limit: int) -> Encoded:
    """At most `limit` positions. What is left out is the earliest text of questions; answers and images are whole.

    Raises:
        DataError: images and answers alone are longer.
    """
    surplus = len(encoded) - limit
    if surplus <= 0:
        return encoded
    free = np.flatnonzero(~encoded.learned & (encoded.image_of < 0))[encoded.begin :]
    if len(free) < surplus:
        least = len(encoded) - len(free)
        raise DataError(f"images and answers alone have {least:,} positions, more than {limit:,}; allow longer ones")
    kept = np.ones(len(encoded), bool)
    kept[free[:surplus]] = False
    return Encoded(encoded.ids[kept], encoded.learned[kept], encoded.image_of[kept], encoded.begin)


def find_template(name: str) -> Template:
    """A template of templates.toml by its name.

    Raises:
        DataError: there is none; names those that are close.
    """
    if name not in TEMPLATES:
        hint = did_you_mean(name, TEMPLATES) or f"; there are {', '.join(TEMPLATES)}"
        raise DataError(f"no template {name!r}{hint}")
    return TEMPLATES[name]


def _text_tokens(text: str, tokenizer: Tokenizer, goes_on: bool) -> list[int]:
    """Args:
    goes_on: text comes before it, and the tokenizer would put a blank between them.
    """
    if not goes_on:
        return tokenizer.encode(text)
    if text.startswith(" "):
        return tokenizer.encode(text[1:])
    line = tokenizer.encode("\n")
    whole = tokenizer.encode(f"\n{text}")
    return whole[len(line) :] if whole[: len(line)] == line else tokenizer.encode(text)


_FILE = files("ssmlab.data.conversations") / "templates.toml"
TEMPLATES: Mapping[str, Template] = {
    name: Template(name=name, **row) for name, row in tomllib.loads(_FILE.read_text("utf-8")).items()
}

"""An image that was read once, and questions about it: each goes on from one state, which stays as it was."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from PIL import Image
from torch import Tensor

from ssmlab.core.errors import ModelError
from ssmlab.generation.generate import generate
from ssmlab.generation.prompt_state import PromptState
from ssmlab.models.vision_language.pixels import hash_of

Turns = Sequence[tuple[str, str]]  # (role, text), roles "human" and "model"


class Speech(Protocol):
    """What turns conversations into tokens and back: a tokenizer and a template.

    ends: tokens that end an answer. stop: texts that do.
    """

    ends: tuple[int, ...]
    stop: tuple[str, ...]

    def prompt(self, turns: Turns, image_tokens: Sequence[int]) -> list[int]:
        """The tokens of a conversation up to where the model's answer begins, -1 at places of images, which stand in
        front of the first question unless its text has marks."""
        ...

    def prefix(self, image_tokens: Sequence[int]) -> list[int]:
        """The beginning that the prompts of all questions about these images have in common, up to the last image."""
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """Tokens to text."""
        ...

    def hash(self) -> str:
        """Of the tokenizer and the template."""
        ...

    def picture(self, image: Any) -> Image.Image:
        """A picture from a path, or from what `picture_of` takes."""
        ...


class Answer(NamedTuple):
    """What a model said.

    text: of the answer. tokens: its tokens, with the one that ended it. reason: "eos", "stop" or "length".
    score: natural logarithm of its probability. logprobs: of every token.
    """

    text: str
    tokens: list[int]
    reason: str
    score: float
    logprobs: list[float]


@dataclass(frozen=True)
class Read:
    """Images that a model has read.

    model: that read. state: after the last image, of one row; None where there is no image. images: the hashes of
        their pixels.
    prefix: the tokens that were read, -1 at places of images.
    """

    model: Any
    state: PromptState | None
    images: tuple[str, ...]
    prefix: tuple[int, ...]

    def ask(self, question: str, **options: Any) -> Answer:
        """Answer a question. See `ask`."""
        return ask(self, question, **options)

    def ask_all(self, questions: Sequence[str], **options: Any) -> list[Answer]:
        """Answer many questions about these images as one batch; the state is forked."""
        return ask_all(self.model, [self] * len(questions), questions, **options)

    def after(self, question: str) -> PromptState:
        """The state and the logits where the answer begins."""
        return _asked(self.model, [self], [question])

    def dialog(self) -> Dialog:
        """A conversation of several turns that begins here."""
        return Dialog(self)

    def bound(self) -> dict[str, str]:
        """What the state belongs to: weights, preprocessing, template, images."""
        return bound_of(self.model, self.images)

    @property
    def bytes(self) -> int:
        """Memory of the state."""
        return bytes_of(self.state)


def bytes_of(state: PromptState | None) -> int:
    """Memory of a state, without the logits."""
    layers = () if state is None else state.state
    return sum(part.numel() * part.element_size() for layer in layers for part in layer)


def bound_of(model: Any, images: Sequence[str]) -> dict[str, str]:
    """What the state of images with these hashes belongs to."""
    return model.hashes() | {"template": speech_of(model).hash(), "image": " ".join(images)}


def speech_of(model: Any) -> Speech:
    """The model's tokenizer and template.

    Raises:
        ModelError: it has none.
    """
    if model.speech is None:
        raise ModelError(
            "the model has no tokenizer and no template; ssmlab.tasks.vision_language.use.open_model(FOLDER) opens "
            "it with both"
        )
    return model.speech


@torch.no_grad()
def read_image(model: Any, images: Any) -> Read:
    """Read one image or several, with what comes before them in a prompt. No image at all is a text-only conversation.

    Args:
        images: a path, a picture of Pillow, an array (h, w, 3) of uint8, or a list of these, in order.
    """
    speech = speech_of(model)
    several = list(images) if isinstance(images, (list, tuple)) else [images]
    pictures = [speech.picture(image) for image in several]
    if not pictures:
        return Read(model, None, (), ())
    tokens = model.project(model.encode(pictures))
    prefix = speech.prefix([tokens.shape[1]] * len(pictures))
    state = model.read([prefix], [tokens.flatten(0, 1)])
    model.counts.prefix_tokens += len(prefix)
    return Read(model, state, tuple(map(hash_of, pictures)), tuple(prefix))


def ask(read: Read, question: str, **options: Any) -> Answer:
    """Answer a question about images that were read; nothing of them is read again.

    Args:
        options: of `generate`: max_tokens, temperature, seed, beams, stop and so on; on_text(text) gets pieces as soon
            as they are certain.
    """
    return ask_all(read.model, [read], [question], **options)[0]


def ask_all(model: Any, reads: Sequence[Read], questions: Sequence[str], **options: Any) -> list[Answer]:
    """Answer one question for each of several reads, as a batch; rows do not influence each other."""
    return answered(model, _asked(model, reads, questions), **options)


def answered(
    model: Any, state: PromptState, *, on_text: Callable[[str], None] | None = None, stop: Sequence[str] = (),
    **options: Any,
) -> list[Answer]:  # fmt: skip
    """Answers that begin in a state."""
    speech = speech_of(model)
    show = None if on_text is None else lambda row, text: on_text(text)
    found = generate(
        model.language, state, eos=speech.ends or None, decode=speech.decode, on_text=show,
        stop=tuple(dict.fromkeys((*speech.stop, *stop))), **{"max_tokens": 128} | options,
    )  # fmt: skip
    return [Answer(one.text.strip(), one.tokens, one.reason, one.score, one.logprobs) for one in found]


def question_tokens(read: Read, turns: Turns) -> list[int]:
    """What a conversation has after the images that were read.

    Raises:
        ModelError: the question has marks of images of its own, or the template does not begin as it did.
    """
    speech, prefix = speech_of(read.model), list(read.prefix)
    places = prefix.count(-1)
    each = places // max(1, len(read.images))
    if "<image>" in turns[0][1]:
        raise ModelError("the images were read before the question; leave <image> out of it")
    whole = speech.prompt(turns, [each] * len(read.images))
    if whole[: len(prefix)] != prefix:
        raise ModelError("the prompt does not begin with what was read; read the image again with this template")
    return whole[len(prefix) :]


def _asked(model: Any, reads: Sequence[Read], questions: Sequence[str]) -> PromptState:
    rows = [question_tokens(read, [("human", text)]) for read, text in zip(reads, questions, strict=True)]
    before = joined([read.state for read in reads])
    state = model.read(rows, None, before)
    model.counts.question_tokens += sum(map(len, rows))
    return state


def joined(states: Sequence[PromptState | None]) -> PromptState | None:
    """States of one row each as one of several rows; None where there is nothing to go on from.

    Raises:
        ModelError: they are of other lengths and the language model keeps every token, as a Transformer does.
    """
    first = states[0]
    if len(states) == 1 or all(state is None for state in states):
        return first
    if first is not None and all(state is first for state in states):
        return first.select([0] * len(states))
    if any(state is None for state in states):
        raise ModelError("questions with images and without are asked apart")

    def cat(parts: Sequence[Any]) -> Any:
        if isinstance(parts[0], Tensor):
            if len({part.shape[1:] for part in parts}) > 1:
                raise ModelError("states that grow with the text can be joined only where the texts are of one length")
            return torch.cat(list(parts))
        found = [cat(column) for column in zip(*parts, strict=True)]
        return type(parts[0])(*found) if hasattr(parts[0], "_fields") else type(parts[0])(found)

    found = [state for state in states if state is not None]
    tokens = tuple(row for state in found for row in state.tokens)
    return PromptState(tokens, torch.cat([state.logits for state in found]), cat([state.state for state in found]))


class Dialog:
    """A conversation of several turns about images that were read: what was said before is never read again.

    Attributes:
        turns: (role, text), so far.
    """

    def __init__(self, read: Read):
        self._read, self.turns = read, list[tuple[str, str]]()
        self._state, self._done = read.state, 0  # after so many tokens behind the prefix

    def ask(self, question: str, **options: Any) -> Answer:
        """Answer the next question. The answer before is read as it is in training, then the question."""
        turns = [*self.turns, ("human", question)]
        tokens = question_tokens(self._read, turns)
        model = self._read.model
        state = model.read([tokens[self._done :]], None, self._state)
        model.counts.question_tokens += len(tokens) - self._done
        answer = answered(model, state, **options)[0]
        self._state, self._done, self.turns = state, len(tokens), [*turns, ("model", answer.text)]
        return answer

    @property
    def bytes(self) -> int:
        """Memory of the state so far."""
        return bytes_of(self._state)

"""A vision-language model that is ready to answer: network, tokenizer, template, and states of images in files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from PIL import Image
from safetensors import SafetensorError, safe_open

from ssmlab.checkpoints.find import find_folder
from ssmlab.checkpoints.folder import load_model
from ssmlab.checkpoints.prompts import load_prompt_state, save_prompt_state
from ssmlab.core.device import choose_compute
from ssmlab.core.errors import DataError, ModelError, UserError
from ssmlab.data.conversations import HUMAN, MARK, Template, Turn, encode, end_of, find_template
from ssmlab.data.conversations.reader import open_image
from ssmlab.data.images.decode import UnreadableImage
from ssmlab.data.text.tokenizers import Tokenizer, find_ends, find_tokenizer
from ssmlab.models.vision_language.pixels import hash_of, picture_of
from ssmlab.models.vision_language.reading import Read, Turns, bound_of
from ssmlab.tasks.vision_language.options import OpenOptions

Note = Callable[[str], Any]


class Voice:
    """A tokenizer and a template as a model uses them, see `models.vision_language.reading.Speech`.

    Args:
        tokenizer: see `data.text.tokenizers`.
        template: of `data.conversations`, or its name.
        ends: tokens that end an answer besides the template's.
    """

    def __init__(self, tokenizer: Tokenizer, template: Template | str, ends: Sequence[int] = ()):
        self.tokenizer = tokenizer
        self.template = find_template(template) if isinstance(template, str) else template
        own = [end_of(tokenizer, self.template.end)] if self.template.end_token else []
        last = [] if tokenizer.eos is None else [tokenizer.eos]
        self.ends = tuple(dict.fromkeys((*own, *last, *ends)))
        self.stop = self.template.stop

    def prompt(self, turns: Turns, image_tokens: Sequence[int]) -> list[int]:
        """See `Speech.prompt`."""
        found = [Turn(role, text) for role, text in turns]
        if found and not any(MARK in turn.text for turn in found):
            found[0] = Turn(found[0].role, f"{MARK}\n" * len(image_tokens) + found[0].text)
        return encode(self.template.pieces(found, reply=True), self.tokenizer, image_tokens).ids.tolist()

    def prefix(self, image_tokens: Sequence[int]) -> list[int]:
        """See `Speech.prefix`."""
        pieces = self.template.pieces([Turn(HUMAN, f"{MARK}\n" * len(image_tokens))], reply=True)
        last = max((i for i, piece in enumerate(pieces) if piece.image is not None), default=-1)
        return encode(pieces[: last + 1], self.tokenizer, image_tokens).ids.tolist()

    def decode(self, tokens: Sequence[int]) -> str:
        """Tokens to text."""
        return self.tokenizer.decode([token for token in tokens if token >= 0])

    def hash(self) -> str:
        """Of the template and of what the tokenizer makes of some texts."""
        shown = [self.tokenizer.encode(text) for text in (repr(self.template), "Hello, world! 0123 äß\n\t ~")]
        return hashlib.sha256(repr((self.template, self.tokenizer.size, shown, self.ends)).encode()).hexdigest()

    def picture(self, image: Any) -> Image.Image:
        """A picture of a path in any format that is read, or of what `picture_of` takes."""
        return open_picture(image) if isinstance(image, str | Path) else picture_of(image)


def open_picture(path: str | Path) -> Image.Image:
    """An RGB picture from a file in any format that is read.

    Raises:
        DataError: there is no such file, or it is no picture.
    """
    try:
        return open_image(Path(path))
    except UnreadableImage as error:
        raise DataError(f"image {path} cannot be read: {error}; give another one") from error


def open_model(
    model: str | Path, options: OpenOptions | None = None, *, note: Note = lambda text: None, **given: Any
) -> Any:
    """A vision-language model with all that it needs to answer:

        model = open_model("runs/captions")
        read = model.read_image("cat.jpg")
        read.ask("What is this?").text

    Args:
        model: its folder, ours, llava-hf's, LLaVA-1.5's or Cobra's, or that of a run.
        options: template, tokenizer: other ones than the folder's; device. They may also be given one by one.
        note: gets what the user should know.
    Raises:
        ModelError, DataError: a part is missing, or they do not fit.
    """
    options = OpenOptions.of(options, given, "open_model")
    if options.template is not None:
        find_template(options.template)
    if not Path(model).exists():
        raise ModelError(f"there is no model {str(model)!r}; give the folder of a vision-language model or of a run")
    folder, why = find_folder(Path(model), ("vision_language",), choose=True)
    if why:
        note(why)
    network, about = load_model(folder, "vision_language")
    size = network.language.config.padded_vocab
    words = find_tokenizer(folder, size, options.tokenizer)
    if words.size > size:
        raise DataError(f"the tokenizer has {words.size} tokens, the model {size}; give the model's own")
    name = options.template or about.get("template") or network.config.template
    network.speech = Voice(words, name, find_ends(folder, words))
    return network.to(choose_compute(options.device).device).eval()


def save_read(read: Read, path: str | Path) -> Path:
    """Write what a model has read of images as safetensors, bound to weights, preprocessing, template and images."""
    if read.state is None:
        raise UserError("no image was read, so there is no state to save; give --image FILE")
    return save_prompt_state(read.state, path, read.model.language, read.bound())


def load_read(path: str | Path, model: Any, images: Any = None) -> Read:
    """What `save_read` wrote, for the same model, preprocessing and template; nothing is encoded or read again.

    Args:
        images: where given, the file must be of these.
    Raises:
        ModelError: there is no such file, or it is of another model, preprocessing, template or image.
    """
    hashes: list[str] = []
    if images is None:
        with suppress(OSError, SafetensorError), safe_open(path, "pt") as file:  # loading it says what is wrong
            hashes = (file.metadata() or {}).get("bound image", "").split()
    else:
        several = list(images) if isinstance(images, list | tuple) else [images]
        hashes = [hash_of(model.speech.picture(image)) for image in several]
    bound = bound_of(model, hashes)
    state = load_prompt_state(path, model.language, bound)
    return Read(model, state, tuple(hashes), tuple(model.speech.prefix([model.image_tokens] * len(hashes))))

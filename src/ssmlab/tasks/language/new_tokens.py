"""New tokens in a run: the tokenizer that knows them, and its file next to what was trained."""

import tempfile
from pathlib import Path
from typing import Any

from ssmlab.core.errors import RecipeError
from ssmlab.core.files import write_atomically
from ssmlab.data.text.tokenizer_files import CONFIG, FILE, byte_tokenizer
from ssmlab.data.text.tokenizers import ByteTokenizer, JsonTokenizer, Tokenizer
from ssmlab.tasks.shared.tables import GROWS, method_of


def with_new_tokens(recipe: Any, tokenizer: Tokenizer, name: str) -> tuple[Tokenizer, str]:
    """A tokenizer and its name; with `adapt.new_tokens` each of these texts is one token, after all others.

    Bytes get the separator of documents first, as their models have it.

    Raises:
        RecipeError: a text is a token already, or the tokenizer's kind has no room for more.
    """
    new = recipe.adapt.new_tokens
    if not new:
        return tokenizer, name
    if isinstance(tokenizer, ByteTokenizer):
        opened, config = byte_tokenizer(), None
    elif isinstance(tokenizer, JsonTokenizer):
        from tokenizers import Tokenizer as Rust

        opened, config = Rust.from_file(str(tokenizer.path)), tokenizer.path.parent / CONFIG
    else:
        raise RecipeError(f"adapt.new_tokens: {name} is a model of sentencepiece; give a tokenizer.json, or bytes")
    known = [text for text in new if opened.token_to_id(text) is not None]
    if known:
        raise RecipeError(f"adapt.new_tokens: {known[0]!r} is a token of {name} already; leave it out")
    from tokenizers import AddedToken

    opened.add_tokens([AddedToken(text, normalized=False) for text in new])
    files = {FILE: opened.to_str(pretty=True)}
    if config is not None and config.is_file():
        files[CONFIG] = config.read_text("utf-8")
    return Grown(files), f"{name} + {', '.join(new)}"


class Grown(JsonTokenizer):
    """A tokenizer of texts that are not in a folder yet.

    files: by name, what `write_tokenizer` puts there.
    """

    def __init__(self, files: dict[str, str]):
        self.files = files
        with tempfile.TemporaryDirectory() as folder:
            for name, text in files.items():
                (Path(folder) / name).write_text(text, "utf-8")
            super().__init__(Path(folder) / FILE)


def base_vocabulary(recipe: Any, model: Any, size: int) -> int:
    """How many of the data's tokens a model needs before it grows."""
    return size - len(recipe.adapt.new_tokens) if GROWS in method_of(recipe, model).split("+") else size


def growth(recipe: Any, method: str, task: Any) -> dict[str, Any]:
    """The options of `adapt.apply` by which a model grows; none where its method does not."""
    if GROWS not in method.split("+"):
        return {}
    return {"vocab_size": task.vocab_size, "new_tokens": tuple(recipe.adapt.new_tokens)}


def write_tokenizer(files: dict[str, str], folder: Path) -> None:
    """The files of a tokenizer that has grown."""
    for name, text in files.items():
        write_atomically(folder / name, text)

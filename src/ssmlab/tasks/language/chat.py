"""A language model that is ready to write: network, tokenizer, the tokens that end a text, and the form of messages.

The command's help reads this file, so everything else is imported when it is used.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssmlab.core.errors import DataError, ModelError, UserError
from ssmlab.tasks.language.options import DTYPES, INT8

if TYPE_CHECKING:
    from ssmlab.data.text.tokenizers import Tokenizer

Note = Callable[[str], Any]
Messages = Sequence[tuple[str, str]]  # (role, text)


@dataclass(frozen=True)
class Chat:
    """A language model and what its tokens are.

    ends: tokens that end a text.
    folder: where it came from; None where it has random weights.
    """

    network: Any
    tokenizer: Tokenizer
    ends: tuple[int, ...]
    folder: Path | None = None

    def encode(self, text: str, *, first: bool = True) -> list[int]:
        """Tokens of a prompt; it begins with what the tokenizer puts there, an empty one with the end of another.

        Args:
            first: whether nothing comes before it.
        """
        tokens = self.tokenizer.encode(text, special=first)
        return tokens or (self._separator if first else [])

    def encode_messages(self, messages: Messages, *, first: bool = True) -> list[int]:
        """Tokens of a chat up to where the model's answer begins, by the template that the model was trained on here,
        else by the tokenizer's own.

        Args:
            messages: roles and texts; the last one is not the model's.
            first: whether nothing comes before them.
        Raises:
            ModelError: the model knows no form of messages, or not these roles. UserError: it cannot continue a text.
        """
        from ssmlab.data.text.chat_template import find_template

        form = trained_template(self.folder)
        if form is not None:  # every chat that the model was trained on begins after a separator
            unknown = sorted({role for role, _ in messages} - form.keys())
            if unknown:
                raise ModelError(
                    f"the model was trained on chats of {', '.join(form)}; it knows no role {unknown[0]!r}"
                )
            tokens = self._separator if first else []
            for role, text in messages:
                pieces = form[role].split("{text}")
                answer = role == "assistant"
                for piece in (pieces[0], text + pieces[1]) if answer else (text.join(pieces),):
                    tokens += self.tokenizer.encode(piece)
                tokens += self._separator if answer else []
            return tokens + self.tokenizer.encode(form["assistant"].split("{text}")[0])
        path = getattr(self.tokenizer, "path", None)
        own = find_template(folder for folder in (path and path.parent, self.folder) if folder)
        if own is None:
            raise ModelError(
                "the model was not fine-tuned on chats here, and its tokenizer has no chat template; write the form of "
                "a message into the prompt yourself"
            )
        if not first:
            raise UserError("the tokenizer's template begins a chat anew; leave out --load-state, or the messages")
        return self.tokenizer.encode(own.render(messages, answer=True))

    @property
    def _separator(self) -> list[int]:
        return [] if self.tokenizer.eos is None else [self.tokenizer.eos]


def open_chat(
    model: str,
    *,
    tokenizer: str | None = None,
    dtype: str | None = None,
    device: str = "auto",
    adapter: str | Path | None = None,
    note: Note = lambda text: None,
) -> Chat:
    """A language model that is ready to write.

    Args:
        model: its folder, a run's, or the name of a model of the table, which gets random weights.
        tokenizer: a file, a folder, or "bytes"; None takes the one next to the weights.
        dtype: of `DTYPES` or "int8"; None takes the file's.
        adapter: a folder of `adapt.save` or of PEFT; it becomes part of the weights.
        note: gets what the user should know.
    Raises:
        ModelError, DataError: a part is missing, or they do not fit.
    """
    from ssmlab.core.device import choose_compute
    from ssmlab.data.text.tokenizers import find_ends, find_tokenizer, load_tokenizer

    place = choose_compute(device).device
    if not Path(model).exists():
        found = load_tokenizer(tokenizer or "bytes")
        network = open_network(model, dtype, found.size, adapter=adapter, note=note)
        return Chat(network.to(place), found, () if found.eos is None else (found.eos,))
    folder = find_writer(model, note)
    if tokenizer is not None:
        load_tokenizer(tokenizer)  # a mistake is reported before the weights are read
    network = open_network(str(folder), dtype, adapter=adapter, note=note)
    found = find_tokenizer(folder, network.config.vocab_size, tokenizer)
    if found.size > network.config.padded_vocab:
        raise DataError(
            f"the tokenizer has {found.size} tokens, the model {network.config.vocab_size}; give the model's own"
        )
    return Chat(network.to(place), found, find_ends(folder, found), folder)


def open_network(
    model: str,
    dtype: str | None,
    vocab_size: int | None = None,
    *,
    adapter: str | Path | None = None,
    note: Note = lambda text: None,
) -> Any:
    """The network of a path, or of a name with random weights; a path wins. See `open_chat` for the arguments."""
    import torch

    from ssmlab.checkpoints.files import load_language_model
    from ssmlab.checkpoints.find import is_hybrid
    from ssmlab.checkpoints.hybrids import load_hybrid
    from ssmlab.nn import quantize_linear_

    kind = None if dtype in (None, INT8) else getattr(torch, dtype)
    if is_hybrid(Path(model)):
        if dtype == INT8:
            raise UserError(f"--dtype int8: {model} runs in transformers' classes; choose {', '.join(DTYPES)}")
        return load_hybrid(model, kind, adapter)
    if Path(model).exists():
        if adapter is None:
            return load_language_model(model, kind, int8=dtype == INT8)
        network = load_language_model(model, kind)
    else:
        from ssmlab.models import create_model

        note(f"{model} is a name: its weights are random, and so is what it writes")
        network = create_model(model, vocab_size=vocab_size).to(kind).eval()
    if adapter is not None:
        from ssmlab.adapt.peft_files import add_adapter

        network = add_adapter(network, adapter).eval()
    return quantize_linear_(network) if dtype == INT8 else network


def check_model(model: str, dtype: str | None, dtypes: tuple[str, ...] = DTYPES) -> None:
    """Report what is misspelt before torch is imported."""
    from ssmlab.core.text import did_you_mean
    from ssmlab.models.catalogue import is_repository
    from ssmlab.models.registry import kind_of, list_models

    if not Path(model).exists() and kind_of(model) != "language" and not is_repository(model):
        hint = did_you_mean(model, list_models("language"))
        hint = hint or "; give its folder, owner/name on the hub, or a name such as mamba_lm_130m"
        raise ModelError(f"there is no language model {model!r}{hint}")
    if dtype is not None and dtype not in dtypes:
        raise UserError(f"--dtype must be one of {', '.join(dtypes)}, got {dtype!r}")


def find_writer(model: str, note: Note = lambda text: None) -> Path:
    """The folder of the language model that a path means; of a run's models the best one on the validation part."""
    from ssmlab.checkpoints.find import find_folder, kind_of

    folder, why = find_folder(Path(model), choose=True)
    if why:
        note(why)
    if kind_of(folder) == "sequence_classifier":
        raise ModelError(f"{folder} is a classifier of sequences, which writes nothing; use `ssmlab classify`")
    return folder


def trained_template(folder: Path | None) -> dict[str, str] | None:
    """How language/finetune wrote the messages that a model was trained on; None for other models."""
    try:
        template = json.loads((folder / "preprocess.json").read_text("utf-8"))["template"] if folder else None
        if template and all(template[role].count("{text}") == 1 for role in ("user", "assistant")):
            return template
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        pass
    return None

"""A language model from one layout to another, with its tokenizer and the form of its messages."""

import json
import shutil
from pathlib import Path
from typing import Any

from ssmlab.checkpoints.files import save_language_model
from ssmlab.checkpoints.find import is_hybrid
from ssmlab.core.errors import DataError, UserError
from ssmlab.data.text.chat_template import FILE, as_jinja, find_template
from ssmlab.data.text.jsonl import question_tokens
from ssmlab.data.text.tokenizers import JsonTokenizer, find_ends, find_special, find_tokenizer, tokenizer_files
from ssmlab.tasks.language.chat import Note, find_writer, open_network, trained_template
from ssmlab.tasks.language.options import ConvertOptions

# files that belong to a model and are the same in every layout
COMPANIONS = (
    *("tokenizer.json", "tokenizer.model", "spiece.model", "tokenizer_config.json", "special_tokens_map.json"),
    *("vocab.json", "merges.txt", "chat_template.jinja", "generation_config.json", "preprocess.json"),
)


def convert(model: str, output: Path, options: ConvertOptions, *, note: Note = lambda text: None) -> Any:
    """Write a language model, its tokenizer, and what else belongs to it, in another layout; returns the network.

    Args:
        model: its folder, a run's, or the name of a model of the table, which gets random weights.
        output: a folder, new or empty.
        note: gets what the user should know.
    Raises:
        ModelError, DataError: a part is missing, or the layout has no such model.
    """
    folder = find_writer(model, note) if Path(model).exists() else None
    if folder is not None and is_hybrid(folder):
        raise UserError(
            f"{folder} is in transformers' layout already, and no other holds such a model; copy the folder"
        )
    network = open_network(model if folder is None else str(folder), options.dtype, note=note)
    if folder is None:
        save_language_model(network, output, layout=options.to)
    else:
        tokenizer = _tokenizer(folder, network)
        ends, special = find_ends(folder, tokenizer), find_special(folder)
        save_language_model(network, output, layout=options.to, ends=ends, special=special)
        for name in COMPANIONS:
            if (folder / name).is_file():
                shutil.copyfile(folder / name, output / name)
        for name, text in tokenizer_files(tokenizer, network.config.logits).items():
            (output / name).write_text(text, "utf-8")
        known = {"eos_token_id": list(ends) if len(ends) > 1 else next(iter(ends), None)} | special
        values = {name: value for name, value in known.items() if value is not None}
        generation = output / "generation_config.json"
        if values and options.to != "huggingface" and not generation.is_file():  # config.json of theirs has them
            generation.write_text(json.dumps(values, indent=2) + "\n", "utf-8")
        if options.to == "huggingface":
            _write_template(folder, output, tokenizer, note)
    return network


def _write_template(folder: Path, output: Path, tokenizer, note: Note) -> None:
    """The form of messages that the model was trained on as transformers reads it; says where that is not the same."""
    template = trained_template(folder)
    if template is None:
        return
    read = JsonTokenizer(output / "tokenizer.json") if (output / "tokenizer.json").is_file() else None
    separator = read.name_of(tokenizer.eos) if read and tokenizer.eos is not None else None
    if read is None or separator is None:
        note(f"{FILE} is not written: the token between chats has no text; ssmlab generate --chat knows it")
        return
    (output / FILE).write_text(as_jinja(template, separator), "utf-8")
    written = find_template([output])
    assert written is not None
    for text in ("Hello", "1 + 1?\n"):
        tokens = read.encode(written.render([("user", text)], answer=True))
        if tokens != [tokenizer.eos, *question_tokens(text, template, tokenizer.encode)]:
            note(
                f"{FILE}: this tokenizer joins the end of one part of a chat and the beginning of the next to other "
                "tokens than in training; ssmlab generate --chat keeps them apart"
            )
            return


def _tokenizer(folder: Path, network):
    """The tokenizer in a folder; None where there is none."""
    try:
        return find_tokenizer(folder, network.config.vocab_size)
    except DataError:
        return None

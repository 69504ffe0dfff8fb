"""`ssmlab convert`: a language model from one layout to another."""

from pathlib import Path

import typer

from ssmlab.cli.generate import DTYPE, MODEL
from ssmlab.cli.published import AcceptLicence, Pretrained, as_folder

LAYOUTS = ("huggingface", "state-spaces", "ssmlab")
# files that belong to a model and are the same in every layout
COMPANIONS = (
    *("tokenizer.json", "tokenizer.model", "spiece.model", "tokenizer_config.json", "special_tokens_map.json"),
    *("vocab.json", "merges.txt", "chat_template.jinja", "generation_config.json", "preprocess.json"),
)


def convert(
    model: str = MODEL,
    output: Path = typer.Argument(metavar="OUTPUT", help="The folder to write; new or empty."),
    to: str = typer.Option("huggingface", "--to", help=f"{', '.join(LAYOUTS)}."),
    dtype: str = DTYPE,
    pretrained: Pretrained = False,
    accept_licence: AcceptLicence = False,
) -> None:
    """Write a language model in another layout, its tokenizer beside it; transformers opens Hugging Face's."""
    from ssmlab.core.errors import UserError
    from ssmlab.tasks.language.chat import check_model, find_writer, open_network

    check_model(model, dtype)
    if to not in LAYOUTS:
        raise UserError(f"--to must be one of {', '.join(LAYOUTS)}, got {to!r}")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"{output} is there already and not empty; name a new folder")
    model = as_folder(model, pretrained, accept_licence)  # before torch is imported
    import json
    import shutil

    from ssmlab.checkpoints.files import save_language_model
    from ssmlab.data.text.tokenizers import find_ends, find_special, tokenizer_files

    def note(text: str) -> None:
        typer.echo(text, err=True)

    folder = find_writer(model, note) if Path(model).exists() else None
    network = open_network(model if folder is None else str(folder), dtype, note=note)
    if folder is None:
        save_language_model(network, output, layout=to)
    else:
        words = _words(folder, network)
        ends, special = find_ends(folder, words), find_special(folder)
        save_language_model(network, output, layout=to, ends=ends, special=special)
        for name in COMPANIONS:
            if (folder / name).is_file():
                shutil.copyfile(folder / name, output / name)
        for name, text in tokenizer_files(words, network.config.logits).items():
            (output / name).write_text(text, "utf-8")
        known = {"eos_token_id": list(ends) if len(ends) > 1 else next(iter(ends), None)} | special
        if to != "huggingface" and any(value is not None for value in known.values()):  # whose config.json has them
            values = {name: value for name, value in known.items() if value is not None}
            if not (output / "generation_config.json").is_file():
                (output / "generation_config.json").write_text(json.dumps(values, indent=2) + "\n", "utf-8")
        if to == "huggingface":
            _write_template(folder, output, words)
    count = sum(parameter.numel() for parameter in network.parameters())
    typer.echo(f"{count:,} parameters in {output}: {', '.join(sorted(file.name for file in output.iterdir()))}")


def _write_template(folder: Path, output: Path, words) -> None:
    """The form of messages that the model was trained on as transformers reads it; says where that is not the same."""
    from ssmlab.data.text.chat_template import FILE, as_jinja, find_template
    from ssmlab.data.text.jsonl import question_tokens
    from ssmlab.data.text.tokenizers import JsonTokenizer
    from ssmlab.tasks.language.chat import trained_template

    template = trained_template(folder)
    if template is None:
        return
    read = JsonTokenizer(output / "tokenizer.json") if (output / "tokenizer.json").is_file() else None
    mark = read.name_of(words.eos) if read and words.eos is not None else None
    if read is None or mark is None:
        typer.echo(
            f"{FILE} is not written: the token between chats has no text; ssmlab generate --chat knows it", err=True
        )
        return
    (output / FILE).write_text(as_jinja(template, mark), "utf-8")
    written = find_template([output])
    assert written is not None
    for text in ("Hello", "1 + 1?\n"):
        tokens = read.encode(written.render([("user", text)], answer=True))
        if tokens != [words.eos, *question_tokens(text, template, words.encode)]:
            typer.echo(
                f"{FILE}: this tokenizer joins the end of one part of a chat and the beginning of the next to other "
                "tokens than in training; ssmlab generate --chat keeps them apart",
                err=True,
            )
            return


def _words(folder: Path, network):
    """The tokenizer in a folder; None where there is none."""
    from ssmlab.core.errors import DataError
    from ssmlab.data.text.tokenizers import find_tokenizer

    try:
        return find_tokenizer(folder, network.config.vocab_size)
    except DataError:
        return None

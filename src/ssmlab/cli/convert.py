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
    from ssmlab.cli.generate import check_model, model_folder, open_model
    from ssmlab.errors import UserError

    check_model(model, dtype)
    if to not in LAYOUTS:
        raise UserError(f"--to must be one of {', '.join(LAYOUTS)}, got {to!r}")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"{output} is there already and not empty; name a new folder")
    model = as_folder(model, pretrained, accept_licence)  # before torch is imported
    import json
    import shutil

    from ssmlab.checkpoints.files import save_language_model
    from ssmlab.data.tokenizers import find_ends, find_special, tokenizer_files

    folder = model_folder(model) if Path(model).exists() else None
    network = open_model(model if folder is None else str(folder), dtype)
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
    count = sum(parameter.numel() for parameter in network.parameters())
    typer.echo(f"{count:,} parameters in {output}: {', '.join(sorted(file.name for file in output.iterdir()))}")


def _words(folder: Path, network):
    """The tokenizer in a folder; None where there is none."""
    from ssmlab.data.tokenizers import find_tokenizer
    from ssmlab.errors import DataError

    try:
        return find_tokenizer(folder, network.config.vocab_size)
    except DataError:
        return None

"""`ssmlab convert`: a language model from one layout to another."""

from pathlib import Path

import typer

from ssmlab.cli.generate import DTYPE, MODEL
from ssmlab.cli.published import AcceptLicence, Pretrained, as_folder

LAYOUTS = ("huggingface", "state-spaces", "ssmlab")
# files that belong to a model and are the same in every layout
COMPANIONS = (
    *("tokenizer.json", "tokenizer.model", "spiece.model", "tokenizer_config.json", "special_tokens_map.json"),
    *("vocab.json", "merges.txt", "generation_config.json", "preprocess.json"),
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
    import shutil

    from ssmlab.checkpoints.files import save_language_model

    model = as_folder(model, pretrained, accept_licence)
    folder = model_folder(model) if Path(model).exists() else None
    network = open_model(model if folder is None else str(folder), dtype)
    ends = () if folder is None else _ends(folder, network)
    save_language_model(network, output, layout=to, ends=ends)
    if folder is not None:
        for name in COMPANIONS:
            if (folder / name).is_file():
                shutil.copyfile(folder / name, output / name)
    count = sum(parameter.numel() for parameter in network.parameters())
    typer.echo(f"{count:,} parameters in {output}: {', '.join(sorted(file.name for file in output.iterdir()))}")


def _ends(folder: Path, network) -> tuple[int, ...]:
    """The tokens that end a text; a model without a tokenizer has those that its files name."""
    from ssmlab.data.tokenizers import find_ends, find_tokenizer
    from ssmlab.errors import DataError

    try:
        words = find_tokenizer(folder, network.config.vocab_size)
    except DataError:
        words = None
    return find_ends(folder, words)

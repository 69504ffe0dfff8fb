"""What all studies share: the folder of a report."""

from pathlib import Path

from ssmlab.core.errors import UserError
from ssmlab.core.files import read_json


def check_report_folder(folder: Path, mark: str, what: str, *, overwrite: bool = False) -> Path:
    """The folder of a command's report, which is not touched: a new one, an unfinished one, or one to be overwritten.

    Args:
        mark: the JSON file that says what such a folder is, and under "finished" whether it is.
        what: the folder holds, in words.
    Raises:
        UserError: it is a file, holds something else, or a finished report that was not to be overwritten.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; give another --output")
    if folder.is_dir() and any(folder.iterdir()):
        if not (folder / mark).is_file():
            raise UserError(f"{folder} holds files that are not {what}; give another --output")
        finished = read_json(folder / mark).get("finished", "earlier")
        if finished and not overwrite:
            raise UserError(f"{folder} holds {what} already (finished {finished}); add --overwrite, or --output FOLDER")
    return folder

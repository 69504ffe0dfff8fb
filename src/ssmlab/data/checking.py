"""A data set of any kind read as a run reads it: what `ssmlab data check` shows."""

import codecs
from typing import Any

from pydantic import ValidationError

from ssmlab.core.errors import DataError, UserError
from ssmlab.data.check import CheckReport, check_images
from ssmlab.data.images.decode import Progress
from ssmlab.data.images.formats import ACCEPTED
from ssmlab.data.images.reader import open_images
from ssmlab.data.kind_of_data import kind_of_data
from ssmlab.data.masks.check import MaskReport, check_masks
from ssmlab.data.options import DataOptions
from ssmlab.data.pairs.check import PairReport, check_pairs
from ssmlab.data.pairs.config import PairConfig
from ssmlab.data.sequences.check import SequenceReport, check_sequences

OTHERS = (
    "or files or class folders of texts (.txt, .md), sounds (.wav) or genes (.fa), chats (.jsonl), or images with "
    "masks (images/ and masks/, nnU-Net's imagesTr and labelsTr), or sentence pairs (train.en and train.fr, or with a "
    "tab between)"
)
Report = CheckReport | MaskReport | PairReport | SequenceReport


def check_data(
    path: str = "digits", options: DataOptions | None = None, *, progress: Progress | None = None, **given: Any
) -> Report:
    """Read everything as a run does, and divide it in the same way.

    Args:
        path: class folders, files, an archive; "digits" are the built-in ones.
        options: the fields of `DataOptions` may also be given one by one.
        progress: of images that are decoded, called with how many are done and how many there are.
    Returns:
        What was found, with `ok`, `counts` and `to_dict()`. Problems of images and masks are in it.
    Raises:
        DataError: there is no data set at all, or texts, genes, sounds or pairs cannot be read.
    """
    options = DataOptions.of(options, given, "check_data")
    task, kind = kind_of_data(path, options.wanted)
    split: dict[str, Any] = {"val_fraction": options.val_fraction, "seed": options.seed}
    if task == "segment":
        return check_masks(path, **split)
    if task == "translate":
        keys = {name: getattr(options, name) for name in ("source", "target", "target_path", "encoding")}
        try:
            return check_pairs(PairConfig(path=path, split_seed=options.seed, **keys))
        except ValidationError as error:
            raise UserError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None
    if task != "classify":
        labels, group = options.labels.removeprefix("fine"), options.group or ""
        encoding = codecs.lookup(options.encoding).name
        return check_sequences(path, kind, task, **split, encoding=encoding, labels=labels, group=group)
    try:
        data = open_images(path, group=options.group, labels=options.labels, **split, strict=False)
    except DataError as error:
        if not options.wanted and str(error).endswith(ACCEPTED):
            raise DataError(f"{error}; {OTHERS}") from None
        raise
    report = check_images(data, strict=False, progress=progress)
    if not options.wanted and any("of the images next to them" in note for note in report.notes):
        report.notes.append("for segmentation, images and masks are checked with --task segment")
    return report

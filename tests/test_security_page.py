"""SECURITY.md states the limits that the readers have."""

from pathlib import Path

import pytest

from ssmlab.data import files, parts
from ssmlab.data.images import decode, medmnist
from ssmlab.data.masks import stacks, volumes
from ssmlab.data.sequences import fasta
from ssmlab.data.stream import texts

PAGE = (Path(__file__).parent.parent / "SECURITY.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("what", "limit"),
    [
        ("pixels of a picture", decode.MAX_PIXELS),
        ("bytes of one file of an archive, unpacked", files.MAX_FILE_BYTES),
        (f"bytes of an archive that compresses better than {files.BOMB_RATIO} to 1", files.BOMB_BYTES),
        ("bytes of a FASTA file compressed by gzip, unpacked", fasta.LEAST),
        ("bytes of a volume (NIfTI) compressed by gzip, unpacked", volumes.LEAST),
        ("voxels of a stack", stacks.MOST_VOXELS),
        ("files of a data set", files.MAX_FILES),
        ("visits of one folder, through links", files.MAX_VISITS),
        ("bytes of a list of files", parts.LIST_BYTES),
        ("bytes of a line of JSON that is read in a stream", texts.LONGEST_ROW),
        ("classes of a MedMNIST file", medmnist.MAX_CLASSES),
    ],
)
def test_limits(what, limit):
    assert f"| {what} | {limit:,}" in PAGE


def test_no_code_of_others_is_asked_for():
    source = Path(files.__file__).parents[1]
    assert not [path for path in source.rglob("*.py") if "trust_remote_code=True" in path.read_text(encoding="utf-8")]

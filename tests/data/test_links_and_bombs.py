"""Links that lead in circles or to devices, and compressed files that become absurdly large."""

import gzip
import os

import pytest

from ssmlab.core.errors import DataError
from ssmlab.data.files import FolderFiles, gunzip
from ssmlab.data.masks import volumes
from ssmlab.data.sequences import fasta
from ssmlab.data.sequences.fasta import read_fasta


def test_a_lattice_of_links_is_refused_and_a_few_are_followed(tmp_path):
    for i in range(22):
        (tmp_path / str(i)).mkdir()
    for i in range(21):
        for name in "ab":
            (tmp_path / str(i) / name).symlink_to(tmp_path / str(i + 1))
    with pytest.raises(DataError, match="links lead to .* more than 16 times; remove some"):
        FolderFiles(tmp_path)
    (tmp_path / "21" / "x.txt").touch()
    few = FolderFiles(tmp_path / "19")
    assert sorted(few.files) == ["a/a/x.txt", "a/b/x.txt", "b/a/x.txt", "b/b/x.txt"]


def test_a_link_to_itself_is_a_file_that_cannot_be_read(tmp_path):
    (tmp_path / "self.fa").symlink_to(tmp_path / "self.fa")
    assert list(FolderFiles(tmp_path).files) == ["self.fa"]
    with pytest.raises(DataError, match="self.fa: cannot be read"):
        read_fasta(tmp_path)


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="needs /dev/zero")
def test_devices_and_pipes_are_named_and_not_read(tmp_path):
    (tmp_path / "zero.fa").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe.fa")
    (tmp_path / "a.fa").write_text(">a\nACGT\n")
    found = FolderFiles(tmp_path)
    assert list(found.files) == ["a.fa"]
    assert len(found.problems) == 2 and all("is no file but a device or a pipe" in line for line in found.problems)


def test_what_becomes_absurdly_large_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(fasta, "LEAST", 1 << 16)
    content = b">a\n" + b"A" * (1 << 20) + b"\n"
    (tmp_path / "a.fa.gz").write_bytes(gzip.compress(content))
    with pytest.raises(DataError, match="become more than .* when unpacked"):
        read_fasta(tmp_path / "a.fa.gz")
    monkeypatch.undo()
    assert len(read_fasta(tmp_path / "a.fa.gz")[0].tokens) == 1 << 20


def test_damaged_files_are_one_line(tmp_path):
    packed = bytearray(gzip.compress(b">a\n" + b"ACGT" * 100))
    packed[12] ^= 255
    (tmp_path / "a.fa.gz").write_bytes(packed)
    with pytest.raises(DataError, match=r"a.fa.gz: (is damaged|cannot be read)"):
        read_fasta(tmp_path / "a.fa.gz")


def test_the_limit_is_a_proportion_above_what_is_always_allowed():
    content = gzip.compress(bytes(10_000))
    assert len(gunzip(content, 10_000)) == 10_000
    with pytest.raises(ValueError, match="become more than"):
        gunzip(content, 100)
    assert volumes.LEAST == 2 << 30

"""Files that are not what was written are named; folders of others are none of ours."""

import json

import pytest

from ssmlab.core.checksums import FILE, damages, known, write_checksums

CHANGES = {
    "cut": (b"abc", "has 3 bytes, 6 were written"),
    "flipped": (b"abcdeg", "has another content than was written"),
    "zeroed": (b"abc\0\0\0", "has another content than was written"),
    "missing": (None, "is missing"),
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a").write_bytes(b"abcdef")
    write_checksums(tmp_path, {"a": tmp_path / "a"}, {"last": "text\n"})
    (tmp_path / "last").write_text("text\n")
    return tmp_path


@pytest.mark.parametrize("how", CHANGES)
def test_damage_is_named(folder, how):
    assert damages(folder) == []
    content, said = CHANGES[how]
    (folder / "a").unlink() if content is None else (folder / "a").write_bytes(content)
    assert damages(folder) == [f"{folder / 'a'} {said}"]
    assert damages(folder, lambda name: name == "last") == []
    sized = damages(folder, hashed=lambda name: False)
    assert sized == ([f"{folder / 'a'} {said}"] if how in ("cut", "missing") else [])


def test_more_files_are_no_damage(folder):
    (folder / "b").touch()
    assert damages(folder) == [] and sorted(known(folder)) == ["a", "last"]


@pytest.mark.parametrize("content", ['{"a": "5d41402a"}', '{"files": {"a": 1}}', "{}"])
def test_a_file_of_others_is_passed_over(folder, content):
    (folder / FILE).write_text(content)
    assert damages(folder) == [] and known(folder) == {}


@pytest.mark.parametrize("content", ["", "[1]", '{"made_by": "ssmlab"}', '{"made_by": "ssmlab", "files": {"a": 1}}'])
def test_a_damaged_one_is_told(folder, content):
    (folder / FILE).write_text(content)
    assert damages(folder) == [f"{folder / FILE} is damaged"]


def test_its_own_damage_is_not_taken_for_another_files(folder):
    content = (folder / FILE).read_bytes()
    for at in range(len(content)):
        (folder / FILE).write_bytes(content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :])
        assert damages(folder) == [f"{folder / FILE} is damaged"], at


def test_one_of_a_version_before_is_read(folder):
    content = json.loads((folder / FILE).read_text())
    del content["files_sha256"]
    (folder / FILE).write_text(json.dumps(content))
    assert sorted(known(folder)) == ["a", "last"] and damages(folder) == []

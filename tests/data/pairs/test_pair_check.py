"""`ssmlab data check` on sentence pairs."""

import json

import pytest
from pair_files import folder, pairs, write
from typer.testing import CliRunner

from ssmlab.cli.main import app
from ssmlab.core.errors import UserError


def check(*words) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["data", "check", *map(str, words)])
    if isinstance(result.exception, UserError):
        raise result.exception
    return result.exit_code, result.output


def test_pairs_are_recognised_and_described(tmp_path):
    root = folder(tmp_path)
    write(root / "train.en", [*pairs(60)[0], "", "Привет"]), write(root / "train.fr", [*pairs(60)[1], "Rien", "Salut"])
    code, said = check(root)
    assert code == 0
    for line in ("en to fr: 60 train, 10 val, 10 test", "1 empty, 1 script", "1,000", "All files can be read."):
        assert line in said
    code, said = check(root, "--json")
    found = json.loads(said)
    assert found["ok"] and found["task"] == "translate" and found["removed"]["script"] == 1 and found["problems"] == []
    assert found["counts"] == {"train": 60, "val": 10, "test": 10} and "parts" not in found


def test_the_direction_and_the_second_file_can_be_said(tmp_path):
    root = folder(tmp_path)
    assert "fr to en" in check(root, "--source", "fr", "--target", "en")[1]
    assert "from" not in check(root / "train.en", "--target-path", root / "train.fr")[1]
    assert json.loads(check(root / "train.fr", "--target-path", root / "train.en", "--json")[1])["source"] == "fr"


def test_mistakes_are_one_line(tmp_path):
    root = folder(tmp_path)
    write(root / "val.en", ["a"])
    code, said = check(root)
    assert code == 2 and said.count("\n") == 1 and "val.en: 1 lines, but" in said
    code, said = check(root, "--json")
    assert code == 2 and not json.loads(said)["ok"] and len(json.loads(said)["problems"]) == 1
    with pytest.raises(UserError, match="source and target are both 'en'; name two languages"):
        check(root, "--source", "en", "--target", "en")
    code, said = check(tmp_path / "nothing", "--task", "translate")
    assert code == 2 and "no such file or folder; expected two files" in said

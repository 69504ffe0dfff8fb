"""Golden cases of the original implementations, as `python tests/parity.py` runs them."""

import json
from pathlib import Path

import pytest

import parity

FOLDER = Path(__file__).parent.parent / "parity_data"
ROOT, CASES = parity.cases_in(FOLDER)


def test_the_golden_cases_are_there():
    assert len(CASES) == 111


@pytest.mark.parametrize("path", CASES, ids=[f"{p.parent.name}-{p.stem}" for p in CASES])
def test_case(path):
    worst, where = parity.check_case(ROOT, path, parity.load_fill(ROOT))
    assert worst <= 1, where


def test_an_unknown_family_fails(tmp_path, monkeypatch, capsys):
    (tmp_path / "fill.py").write_text("")
    (tmp_path / "new.json").write_text(json.dumps({"family": "mamba9"}))
    monkeypatch.setattr("sys.argv", ["parity.py", str(tmp_path)])
    assert parity.main() == 1
    assert "mamba9: unknown family" in capsys.readouterr().out

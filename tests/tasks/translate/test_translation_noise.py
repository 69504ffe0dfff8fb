"""Careless sources, and COMET by its own program."""

import sys
from pathlib import Path

import pytest

from ssmlab.core.errors import UserError
from ssmlab.tasks.translate.comet import MODEL, comet_record
from ssmlab.tasks.translate.noise import changed_sources, robustness_records, with_typos, without_final_punctuation
from ssmlab.tasks.translate.scores import EvaluationSet, score_lines

LINES = [f"Two young men, {i} of them in T-shirts, are running along the beach." for i in range(50)]


def words_changed(share, seed=0):
    changed = [with_typos(line, share, seed, number) for number, line in enumerate(LINES)]
    return {(i, k) for i, (a, b) in enumerate(zip(LINES, changed))
            for k, (x, y) in enumerate(zip(a.split(" "), b.split(" "))) if x != y}  # fmt: skip


def test_typos_are_as_frequent_as_asked_and_nested():
    few, many = words_changed(0.05), words_changed(0.2)
    able = sum(sum(sign.isalpha() for sign in word) > 1 for line in LINES for word in line.split(" "))
    assert few < many
    assert 0.03 < len(few) / able < 0.07 and 0.16 < len(many) / able < 0.24
    assert not words_changed(0.0) and words_changed(0.2, seed=1) != many == words_changed(0.2)


def test_a_typo_changes_one_word_and_leaves_spaces_and_punctuation():
    for number, line in enumerate(LINES):
        found = with_typos(line + "  \t(end)", 1.0, 0, number)
        assert found.endswith(found.split(" ")[-1]) and "  \t(" in found and found.count(" ") == line.count(" ") + 2
        assert [s for s in found if not s.isalpha()] == [s for s in line + "  \t(end)" if not s.isalpha()]
        assert all(abs(len(a) - len(b)) <= 1 for a, b in zip(line.split(), found.split()))
        assert found.split()[0] in {"wTo", "Tow", "Tw", "wo", "To", "TTwo", "Twwo"}


def test_lines_without_words_stay():
    for line in ("", "  ", "1 2 3", "a b", "🙂", "- ?"):
        assert with_typos(line, 1.0, 0, 0) == line


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("A dog runs.", "A dog runs"),
        ("Why?! ", "Why"),
        ("他在跑。", "他在跑"),
        ("no end", "no end"),
        ("...", "..."),
        ("", ""),
    ],
)
def test_final_punctuation(line, expected):
    assert without_final_punctuation(line) == expected


def test_robustness_is_bleu_lost_by_change():
    data = EvaluationSet(LINES, [line.replace("men", "hommes") for line in LINES], "en", "fr")
    scores = score_lines(data, data.references)
    calls = []

    def copying(sources):
        calls.append(sources)
        return [source.rstrip().replace("men", "hommes") for source in sources]

    records = robustness_records(copying, data, scores, resamples=200)
    assert len(calls) == len(changed_sources(LINES)) == 7
    lost = {record.class_: record for record in records if record.metric == "bleu_lost"}
    after = {record.class_: record.value for record in records if record.metric == "bleu_changed"}
    assert lost["spaces at the end"].value == 0 and after["spaces at the end"] == pytest.approx(100)
    assert 0 < lost["typos in 5 % of words"].value < lost["typos in 20 % of words"].value
    assert lost["upper case"].value == pytest.approx(100 - after["upper case"])
    low, high = lost["typos in 20 % of words"].spread
    assert 0 < low < lost["typos in 20 % of words"].value < high


FAKE = """#!{python}
import json, sys
arguments = sys.argv[1:]
def value(name): return arguments[arguments.index(name) + 1]
def lines(name): return open(value(name), encoding="utf-8").read().splitlines()
if value("--model") == "broken":
    sys.exit("no such model")
rows = [dict(src=s, mt=t, ref=r, COMET=0.5 + 0.5 * (t == r)) for s, t, r in
        zip(lines("--sources"), lines("--translations"), lines("--references"))]
json.dump({{value("--translations"): rows}}, open(value("--to_json"), "w"))
"""


@pytest.fixture
def program(tmp_path) -> Path:
    path = tmp_path / "comet-score"
    path.write_text(FAKE.format(python=sys.executable))
    path.chmod(0o755)
    return path


@pytest.mark.skipif(sys.platform == "win32", reason="starts a script by its first line")
def test_comet_is_its_own_program(program):
    data = EvaluationSet(["a\r", "b", "c", "d"], ["A\r", "B", "C", "D"])
    record = comet_record(data, ["A\r", "B", "x", "y"], program=str(program))
    assert (record.metric, record.value, record.unit, record.n) == ("comet", 0.75, MODEL, 4)
    assert record.spread[0] < 0.75 < record.spread[1]
    with pytest.raises(UserError, match="failed .no such model.; see"):
        comet_record(data, ["A", "B", "x", "y"], model="broken", program=str(program))
    with pytest.raises(UserError, match="scored 5 sentences of 4"):
        comet_record(EvaluationSet(["a\u2028a", "b", "c", "d"], ["A\u2028A", "B", "C", "D"]), ["x\u2028x", *"yzw"],
                     program=str(program))  # fmt: skip


def test_a_missing_comet_says_how_to_get_it():
    with pytest.raises(UserError, match="environment of its own: pipx install unbabel-comet"):
        comet_record(EvaluationSet(["a"], ["b"]), ["c"], program="no-such-comet")

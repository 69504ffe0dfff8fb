"""Scores of translations: sacreBLEU's own digits, statistics that add up, counts of what went wrong, tests of arms."""

import json
import subprocess
import sys

import numpy as np
import pytest

from ssmlab.core.errors import DataError, UserError
from ssmlab.tasks.translate.scores import (
    EvaluationSet,
    Scores,
    bleu_of,
    chrf_of,
    flags_of,
    read_lines,
    records_of,
    score_differences,
    score_lines,
    validation_scores,
    write_lines,
)

WORDS = (
    "un",
    "homme",
    "l'eau",
    "noir,",
    "très",
    "(grand)",
    "chien",
    "court-circuit",
    "3.5",
    "Été",
    "de",
    "la",
    "&amp;",
)
HOSTILE = ("", "  ", "J", "a\u2028b", "tab\there", "cr\rlf\r\n", "nul\0", "🙂 🙂", "non\u00a0insécable\u202f!",
           "</s> <s>", "\ufeffbom", "漢字", "x " * 500)  # fmt: skip


def sentences(count=60, seed=0):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(1, 30))) + "." for _ in range(count)]


def changed(lines, share, seed=0):
    """Every word is another one with the probability `share`."""
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS) if rng.random() < share else word for word in line.split(" ")) for line in lines]


@pytest.fixture(scope="module")
def data():
    references = [*sentences(), *HOSTILE]
    return EvaluationSet([f"source {i} " + text for i, text in enumerate(references)], references, "en", "fr")


@pytest.fixture(scope="module")
def scored(data):
    return score_lines(data, [*changed(data.references[:60], 0.3), *HOSTILE[::-1]])


def test_our_digits_are_those_of_sacrebleus_command(data, scored, tmp_path):
    data.save(tmp_path)
    scored.save(tmp_path)
    command = [sys.executable, "-m", "sacrebleu", str(tmp_path / "test.ref"), "-i", str(tmp_path / "test.hyp"),
               "-m", "bleu", "chrf", "--chrf-word-order", "2", "-w", "10"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    for metric, theirs in zip(("bleu", "chrf"), json.loads(done.stdout), strict=True):
        assert scored.values[metric] == pytest.approx(theirs["score"], abs=1e-9)
        assert scored.signatures[metric] == theirs["signature"]
    assert "tok:13a" in scored.signatures["bleu"] and "case:mixed" in scored.signatures["bleu"]
    assert 10 < scored.values["bleu"] < 90


def test_added_statistics_give_the_same_scores(data, scored):
    assert bleu_of(scored.bleu.sum(0)) == pytest.approx(scored.values["bleu"], abs=1e-9)
    assert chrf_of(scored.chrf.sum(0)) == pytest.approx(scored.values["chrf"], abs=1e-9)
    assert bleu_of(scored.bleu).shape == chrf_of(scored.chrf).shape == (len(data.sources),)


@pytest.mark.parametrize(
    ("line", "reference"),
    [("", "a b c d e"), ("x y z v w", "a b c d e"), ("a", "a b c d e"), ("a b x y z", "a b c d e f g h"),
     ("a x b y c z d", "a b c d"), ("a b c d", ""), ("", ""), ("a b c d e", "a b c d e")],
)  # fmt: skip
def test_smoothing_and_short_texts_are_sacrebleus(line, reference):
    import sacrebleu

    found = score_lines(EvaluationSet(["s"], [reference]), [line])
    assert bleu_of(found.bleu.sum(0)) == pytest.approx(sacrebleu.corpus_bleu([line], [[reference]]).score, abs=1e-9)
    theirs = sacrebleu.corpus_chrf([line], [[reference]], word_order=2).score
    assert chrf_of(found.chrf.sum(0)) == pytest.approx(theirs, abs=1e-9)


def test_the_line_of_old_tables_is_lower_cased_and_split_as_moses_does(data):
    upper = score_lines(data, [reference.upper() for reference in data.references])
    assert upper.values["bleu_tokenised"] > 99 > 50 > upper.values["bleu"]
    assert "case:lc" in upper.signatures["bleu_tokenised"] and upper.signatures["bleu_tokenised"].endswith("|moses:fr")
    # "l'eau" is two tokens of Moses', so that four tokens are right where 13a counts three
    apart = EvaluationSet(["s"], ["l'eau est froide"], "en", "fr")
    assert score_lines(apart, ["l'eau est froide"]).values["bleu_tokenised"] == pytest.approx(100)
    assert score_lines(apart, ["l'eau est froide"]).values["bleu"] == 0


def test_the_validation_part_is_scored_alike(data, scored):
    found = validation_scores(data, scored.lines)
    assert found == {"bleu": scored.values["bleu"], "chrf": scored.values["chrf"]}


def test_what_sacrebleu_warns_of_is_passed_on(capsys):
    data = EvaluationSet(["s"] * 120, ["Un homme court."] * 120, "en", "fr")
    found = score_lines(data, ["Un homme court ."] * 120)
    assert "100 lines that end in a tokenized period" in found.warnings[0]
    assert score_lines(data, ["Un homme court."] * 120).warnings == ()
    assert capsys.readouterr().err == ""


def test_chinese_is_split_into_characters():
    data = EvaluationSet(["s"], ["一个男人在跑步。"], "en", "zh")
    found = score_lines(data, ["一个男人在跑步。"])
    assert found.values["bleu"] == pytest.approx(100) and "tok:zh" in found.signatures["bleu"]


def test_saved_scores_are_read_again(scored, tmp_path):
    scored.save(tmp_path)
    again = Scores.load(tmp_path)
    assert again.lines == [line.replace("\n", " ") for line in scored.lines]
    assert (again.values, again.signatures, again.warnings) == (scored.values, scored.signatures, scored.warnings)
    assert (again.bleu == scored.bleu).all() and (again.chrf == scored.chrf).all()
    assert again.flags.keys() == scored.flags.keys()
    assert all((again.flags[name] == scored.flags[name]).all() for name in scored.flags)


def test_scores_that_do_not_belong_to_the_lines_are_refused(scored, tmp_path):
    scored.save(tmp_path)
    write_lines(tmp_path / "test.hyp", ["one"])
    with pytest.raises(DataError, match="has 1 lines, scores.npz counts 73"):
        Scores.load(tmp_path)
    (tmp_path / "scores.npz").write_bytes(b"half")
    with pytest.raises(DataError, match="no scores that can be read"):
        Scores.load(tmp_path)
    with pytest.raises(DataError, match="no scores that can be read"):
        Scores.load(tmp_path / "nowhere")


@pytest.mark.parametrize("lines", [HOSTILE, ("",), ("a",), ("", ""), ("a", "")])
def test_lines_survive_a_file(lines, tmp_path):
    write_lines(tmp_path / "test.hyp", lines)
    assert read_lines(tmp_path / "test.hyp") == [line.replace("\n", " ") for line in lines]


def test_unequal_counts_are_one_line(data):
    with pytest.raises(DataError, match=r"got 3 sources and 2 references"):
        EvaluationSet(["a", "b", "c"], ["a", "b"])
    with pytest.raises(DataError, match="0 sources"):
        EvaluationSet([], [])
    with pytest.raises(DataError, match="there are 1 translations of 73 sources"):
        score_lines(data, ["a"])


@pytest.mark.parametrize("package", ["sacrebleu.metrics", "sacremoses"])
def test_a_missing_package_names_the_extra(data, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"needs {package.partition('.')[0]}.*pip install 'ssmlab\[translation\]'"):
        score_lines(data, data.references)


def test_what_went_wrong_is_counted():
    references = ["un chat", "le même chat", "ha ha ha ha ha", "Paris", "un chien", "deux chiens", "", "un homme court"]
    sources = ["a cat", "the same cat", "ha ha ha ha ha!", "Paris", "a dog", "two dogs", "", "a man runs"]
    lines = [
        "",
        "le chat le chat le chat le chat le chat",
        "ha ha ha ha ha",
        "Paris",
        "chien",
        "chien",
        "",
        "a man runs",
    ]
    flags = flags_of(EvaluationSet(sources, references), lines, cut=[False, True])
    found = {name: np.flatnonzero(values).tolist() for name, values in flags.items()}
    assert found == {"empty": [0], "cut": [1], "looping": [1], "copied": [7], "same": [4, 5]}


def test_loops_of_characters_are_seen_where_there_are_no_spaces():
    assert flags_of(EvaluationSet(["s"], ["一个男人"]), ["一个一个一个一个一个"])["looping"].all()


def test_records_have_signatures_intervals_and_lengths(data, scored):
    records = records_of(data, scored, resamples=200)
    by = {(record.metric, record.class_): record for record in records}
    whole = by["bleu", None]
    assert whole.value == scored.values["bleu"] and whole.unit == scored.signatures["bleu"] and whole.n == 73
    assert whole.spread[0] < whole.value < whole.spread[1]
    lengths = [record for record in records if record.class_]
    assert sum(record.n for record in lengths) == 73 and lengths[0].class_ == "sources of 1 to 8 words"
    assert lengths[-1].class_ == "sources of 41 words and more" and lengths[-1].n == 1
    assert {"chrf", "bleu_tokenised", "length_ratio", "empty", "cut", "looping", "copied", "same"} <= {m for m, _ in by}
    assert by["empty", None].value == scored.flags["empty"].sum()


def test_arms_are_compared_over_sentences_and_seeds(data):
    def arm(share, seeds):
        return [score_lines(data, [*changed(data.references[:60], share, seed), *HOSTILE]) for seed in seeds]

    arms = {"good": arm(0.1, (0, 1, 2)), "bad": arm(0.5, (3, 4, 5)), "also good": arm(0.1, (6, 7, 8))}
    found = {(pair, r.metric, r.class_): r for pair, r in score_differences(arms, resamples=300, trials=499)}
    worse = found["bad - good", "bleu_difference", None]
    means = [np.mean([scores.values["bleu"] for scores in arms[label]]) for label in ("bad", "good")]
    assert worse.value == pytest.approx(means[0] - means[1]) and worse.spread[1] < 0
    assert found["bad - good", "p_of_bleu_difference", None].value <= 0.01
    assert found["bad - good", "p_of_bleu_difference", "these models"].value == 1 / 500
    assert found["also good - good", "p_of_bleu_difference", None].value > 0.05
    low, high = found["also good - good", "chrf_difference", None].spread
    assert low < 0 < high
    one = score_differences({label: arms[label][:1] for label in ("good", "bad")}, resamples=300, trials=499)
    assert [(r.metric, r.class_) for _, r in one if r.metric.startswith("p_of_bleu")] == [
        ("p_of_bleu_difference", None),
        ("p_of_bleu_difference", "Holm"),
    ]  # of one seed it is about these models anyway
    fixed = dict(score_differences({"fixed": arms["bad"][:1], "good": arms["good"]}, resamples=300, trials=499)[1:2])
    assert fixed["good - fixed"].value <= 0.01

"""Trials, chance, runs that did not learn and runs that overfitted are called so where a verdict would be."""

import json
from dataclasses import replace

import pytest

from ssmlab.core.files import write_records
from ssmlab.core.record import Record
from ssmlab.reports import caveats
from ssmlab.reports.caveats import chance, doubt, doubts, judged
from ssmlab.reports.html import write_report
from ssmlab.reports.methods import paragraph
from ssmlab.reports.run_folder import load_run
from ssmlab.tasks.table import report_of


def curve(model, part, metric, values, seed=0):
    return [
        Record(model=model, task="language", split=part, metric=metric, value=value, step=step, seed=seed)
        for step, value in enumerate(values, 1)
    ]


def language(tmp_path, *, kept=(1.5, 1.6), val=((2.0, 1.5), (2.0, 1.6)), train=(3.0, 2.0, 1.0), data=(), **info):
    """The folder of a run of two language models; the second one's test is 0.1 bits worse."""
    records = []
    for model, best, values in zip("ab", kept, val, strict=True):
        records += curve(model, "train", "loss", train) + curve(model, "val", "bits_per_byte", values)
        records += [
            Record(model=model, task="language", split=part, metric="bits_per_byte", value=best, seed=0, n=500,
                   unit="bits", spread=(best - 0.01, best + 0.01))
            for part in ("val", "test")
        ]  # fmt: skip
    records.append(
        Record(model="b - a", task="language", split="test", metric="bits_per_byte_difference", seed=0, n=500,
               value=kept[1] - kept[0], unit="bits", spread=(0.05, 0.15))
    )  # fmt: skip
    records.append(
        Record(model="b - a", task="language", split="test", metric="p_of_bits_per_byte_difference", seed=0, n=500,
               value=0.01, class_="Holm")
    )  # fmt: skip
    models = [{"label": label, "title": label.upper(), "weights": False} for label in "ab"]
    values = {"name": "r", "task": "language", "finished": "now", "models": models, "data": dict(data), "seeds": [0]}
    (tmp_path / "run.json").write_text(json.dumps(values | info))
    (tmp_path / "records.jsonl").unlink(missing_ok=True)
    write_records(tmp_path / "records.jsonl", records)
    return load_run(tmp_path, report_of)


CHANCE = {"chance": {"metric": "bits_per_byte", "value": 4.5, "of": "the frequencies of tokens alone"}}


def test_a_run_that_learned_has_a_verdict(tmp_path):
    verdict = judged(language(tmp_path, data=CHANCE))
    assert verdict.kind == "clear" and verdict.headline == "A wins" and "Flattered" not in verdict.detail


def test_unequal_trials_or_seeds_name_no_winner(tmp_path):
    def with_trials(text):
        (tmp_path / "recipe.toml").write_text(text)
        return load_run(tmp_path, report_of)

    run = language(tmp_path)
    equal = judged(with_trials("[trials.had]\na = 6\nb = 6\n"))
    assert equal.kind == "clear" and equal.detail.endswith("best of 6 trials on the validation part.")
    assert "none was made" in judged(with_trials("[trials.grid]\n'training.learning_rate' = [1e-3]\n")).detail
    found = with_trials("[trials.had]\na = 6\n")
    verdict = judged(found)
    assert verdict.kind == "unequal" and "Numbers of trials are unequal: A 6 and B 0." in verdict.detail
    assert "trials: 6 (A) and 0 (B)" in paragraph(found)
    one_more = [*run.records, *(replace(r, seed=1) for r in run.records if r.model == "a")]
    write_records(tmp_path / "records.jsonl", one_more)
    (tmp_path / "recipe.toml").unlink()
    assert "Numbers of seeds are unequal: A 2 and B 1." in judged(load_run(tmp_path, report_of)).detail


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"trial": True}, "trial", "(--smoke)"),
        ({"data": {"chance": CHANCE["chance"] | {"value": 1.4}}}, "chance", "the frequencies of tokens alone"),
        ({"train": (3.0,) * 20}, "stuck", "did not fall: 3.000 at first"),
        ({"val": ((1.2, 1.5), (1.5, 1.6))}, "overfitted", "A had 1.200 bits per byte after epoch 1 of 2"),
        ({"val": ((2.0, 1.5), (1.1, 1.6))}, "overfitted", "training.keep=best"),
    ],
)
def test_what_decides_nothing_is_called_so(tmp_path, options, kind, words):
    run = language(tmp_path, **options)
    verdict = judged(run)
    assert verdict.kind == kind and words in verdict.detail and verdict.headline.endswith("no verdict")
    assert " wins" not in verdict.sentence and verdict.difference is None
    assert "A has 1.500 bits per byte" in verdict.detail
    page = write_report(tmp_path, report_of).read_text()
    assert verdict.headline in page and "A wins" not in page


def test_what_starts_from_weights_may_have_nothing_left_to_learn(tmp_path):
    models = [{"label": label, "title": label.upper(), "weights": True} for label in "ab"]
    assert judged(language(tmp_path, train=(3.0,) * 20, models=models)).kind == "clear"


def test_a_kept_best_epoch_is_not_overfitted(tmp_path):
    assert judged(language(tmp_path, val=((1.5, 8.0), (1.6, 9.0)))).kind == "clear"


def test_a_loss_with_a_wrong_image_is_not_the_one_that_was_kept(tmp_path):
    run = language(tmp_path, val=((1.5, 8.0), (1.6, 9.0)))
    kept = next(r for r in run.records if (r.model, r.split, r.step) == ("a", "val", None))
    run = replace(run, records=[*run.records, replace(kept, value=9.0, class_="grey image")])
    assert judged(run).kind == "clear"


def test_copies_are_said_next_to_the_verdict(tmp_path):
    verdict = judged(language(tmp_path, data={"copies": {"test": {"exact": 3, "near": 1, "of": 20}}}))
    assert verdict.kind == "clear" and "Flattered: 4 of 20 in the test part are copies" in verdict.detail


def classes(tmp_path, accuracy, n, supports):
    made = [Record(model="a", task="classify", split="test", metric="accuracy", value=accuracy, n=n, seed=0)]
    made += [
        Record(model="a", task="classify", split="test", metric="support", class_=name, value=count, seed=0)
        for name, count in supports.items()
    ]
    (tmp_path / "run.json").write_text(json.dumps({"name": "r", "task": "classify", "finished": "now", "seeds": [0]}))
    (tmp_path / "records.jsonl").unlink(missing_ok=True)
    write_records(tmp_path / "records.jsonl", made)
    return load_run(tmp_path, report_of)


def test_the_chance_of_classes_is_the_most_frequent_one(tmp_path):
    run = classes(tmp_path, 0.8, 50, {"dog": 40, "cat": 10, "macro": 50})
    assert chance(run) == (0.8, "always naming the most frequent class")
    assert judged(run).kind == "chance"
    assert judged(classes(tmp_path, 0.98, 50, {"dog": 40, "cat": 10})).kind == "single"


def test_of_a_synthetic_task_the_longest_length_is_said(tmp_path):
    run = classes(tmp_path, 0.98, 50, {})
    further = [
        Record(
            model="a", task="synthetic", split="test", metric="accuracy", value=v, n=50, seed=0, class_=f"length {n}"
        )
        for n, v in ((16, 0.98), (32, 0.7), (64, 0.5))
    ]
    run = replace(run, records=run.records + further, info=run.info | {"data": {"length": 16}})
    assert "This is the trained length, 16; at 64: a 50.0 %." in judged(run).detail


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, ""),
        ({"trial": True}, "My model comes from a trial run (--smoke)"),
        ({"data": {"chance": CHANCE["chance"] | {"value": 1.4}}}, "My model is at chance (My model reaches 1.500 bits"),
        ({"train": (3.0,) * 20}, "My model made no progress (the training loss of My model did not fall"),
        ({"val": ((1.2, 1.5), (1.5, 1.6))}, "My model is overfitted (on the validation part My model had 1.200"),
    ],
)
@pytest.mark.parametrize("folder", ["models/a", "models/a_seed0"])
def test_a_study_knows_what_the_run_of_a_model_says_of_it(tmp_path, options, words, folder):
    language(tmp_path, **options)
    found = doubt(tmp_path / folder, "My model", report_of)
    assert found.startswith(words) and bool(found) == bool(words) and not found.endswith(".")


def test_nothing_is_known_of_models_outside_a_run(tmp_path):
    language(tmp_path, trial=True)
    assert {doubt(folder, "a", report_of) for folder in (None, tmp_path / "a", tmp_path / "elsewhere/models/a")} == {""}
    (tmp_path / "records.jsonl").unlink()
    assert doubt(tmp_path / "models" / "a", "a", report_of) == ""


def test_every_doubt_is_said_once(tmp_path):
    language(tmp_path, val=((2.0, 1.5), (1.1, 1.6)))
    models = [(tmp_path / "models" / label, title) for label, title in (("a", "A"), ("b", "B"), ("b", "B"))]
    (found,) = doubts(models, report_of)
    assert found.startswith("B is overfitted (")


def test_the_chance_of_a_segmentation_is_one_class_everywhere(tmp_path):
    run = replace(classes(tmp_path, 0.5, 9, {}), task=report_of("segment"))
    dice = Record(model="a", task="segment", split="test", metric="dice", value=0.42, n=9, seed=0, spread=(0.3, 0.5))
    constant = replace(dice, metric="constant_dice", value=0.4, class_="lesion", spread=None)
    for level, kind in ((0.4, "chance"), (0.2, "single")):
        found = judged(replace(run, records=[dice, replace(constant, value=level)]))
        assert found.kind == kind and ("marking everything as lesion reaches Dice 0.400" in found.detail) == (
            level > 0.3
        )
    assert chance(replace(run, records=[dice])) is None


def test_a_compared_model_at_chance_only_loses(monkeypatch):
    said = {"a": "A is at chance (0.5)", "b": "", "c": "C is overfitted (late)"}
    monkeypatch.setattr(caveats, "doubt", lambda folder, title, report_of: said[title])
    for titles, left in (("a", "a"), ("aa", "a"), ("ab", ""), ("ac", "c"), ("bc", "c")):
        assert caveats.doubts([(None, title) for title in titles], None) == tuple(said[title] for title in left)

"""The page of translation models: differences, dropout, lengths, careless sources, examples, several runs."""

import json
import re
from html import unescape
from shutil import copytree

import numpy as np
import pytest

from ssmlab.core.errors import UserError
from ssmlab.core.files import read_json, write_json, write_records
from ssmlab.core.record import Record
from ssmlab.reports.differences import HOLM
from ssmlab.reports.export import export
from ssmlab.reports.html import write_report
from ssmlab.reports.run_folder import load_run, load_runs
from ssmlab.tasks.table import report_of
from ssmlab.tasks.translate.examples import most_different, scores_of
from ssmlab.tasks.translate.report import dropouts
from ssmlab.tasks.translate.runs import spots
from ssmlab.tasks.translate.scores import EvaluationSet, records_of, score_differences, score_lines
from ssmlab.tasks.translate.together import arms_of, differing

WORDS = ("un", "homme", "noir", "court", "très", "vite", "avec", "le", "grand", "chien", "de", "la", "rue")
ARMS = {"transformer": (0.3, 0.0), "mamba": (0.5, 0.0), "mamba_dropout": (0.35, 0.1)}  # share of wrong words, dropout
RECIPE = "".join(
    f'[[models]]\nname = "translation_{label.split("_")[0]}_test"\nlabel = "{label}"\n'
    f"[models.dropout]\nbranch = {branch}\nskip = 0.0\n"
    for label, (_, branch) in ARMS.items()
)


def make_run(folder, train=10_000, seeds=(0, 1), ends="."):
    """A run of three invented arms."""
    rng = np.random.default_rng(0)
    references = [" ".join(rng.choice(WORDS, rng.integers(3, 20))) + ends for _ in range(200)]
    data = EvaluationSet(
        [f"source {i} " + "word " * len(r.split()) for i, r in enumerate(references)], references, "en", "fr"
    )
    data.save(folder)
    arms, records = {}, []
    for label, (share, _) in ARMS.items():
        for seed in seeds:
            own = np.random.default_rng((seed, len(label)))
            lines = [
                " ".join(own.choice(WORDS) if own.random() < share else w for w in r.split(" ")) for r in references
            ]
            lines[5] = "" if label == "mamba" else references[5]
            scores = score_lines(data, lines)
            arms.setdefault(label, []).append(scores)
            of = {"model": label, "seed": seed, "task": "translate"}
            place = folder / "models" / (f"{label}_seed{seed}" if len(seeds) > 1 else label)
            place.mkdir(parents=True)
            scores.save(place)
            (place / "records.jsonl").touch()
            tested = records_of(data, scores, resamples=100)
            tested += [
                Record(metric="bleu_lost", value=3.0 + seed, class_="typos in 5 % of words", spread=(1.0, 5.0), n=200)
            ]
            records += [Record(**(vars(record) | of | {"split": "test"})) for record in tested]
            records += [Record(metric="parameters", value=1e6, unit="count", **of),
                        Record(metric="train_seconds", value=60.0, unit="seconds", n=300, **of)]  # fmt: skip
            for step in (100, 200, 300):
                curve = [("loss", "train", 5 - step / 100), ("bleu", "val", step / 10), ("epoch", "val", step / 100)]
                records += [Record(metric=m, split=split, value=v, step=step, **of) for m, split, v in curve]
    for pair, record in score_differences(arms, resamples=200, trials=199):
        records.append(Record(**(vars(record) | {"model": pair, "split": "test", "task": "translate"})))
    write_records(folder / "records.jsonl", records)
    (folder / "recipe.toml").write_text(RECIPE)
    described = {"source": "en", "target": "fr", "counts": {"train": train, "val": 10, "test": 200}}
    models = [{"name": label, "label": label, "title": label.replace("_", " with ").title()} for label in ARMS]
    write_json(folder / "run.json", {"name": folder.name, "task": "translate", "data": described, "models": models,
                                     "seeds": list(seeds), "finished": "now"})  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "tenthousand")


@pytest.fixture(scope="module")
def page(folder):
    return plain(write_report(folder, report_of).read_text("utf-8"))


def plain(html):
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]*>", " ", html)))


def test_the_page_compares_arms_by_bleu(page):
    assert "Transformer" in page and "BLEU of old tables" in page and "sacreBLEU, 13a, cased" in page
    assert "Mamba − Transformer" in page and "BLEU nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp" in page
    assert "p, these models" in page and "permutation test" in page and "p, Holm" in page
    assert "Next tokens right" not in page  # was not measured


def test_curves_are_against_updates_and_seconds(page, folder):
    assert "at step 300" in page and "epoch" not in page
    assert "30.00 after 60.0 s" in page
    assert (folder / "plots" / "seconds-bleu.svg").is_file() and (folder / "plots" / "seconds-loss.svg").is_file()


def test_dropout_is_compared_with_the_same_network_without(page, folder):
    run = load_run(folder, report_of)
    ((title, changed, record, p),) = dropouts(run)
    assert (title, changed) == ("Mamba", "branch 0 → 0.1")
    means = [run.final(label, "bleu") for label in ("mamba_dropout", "mamba")]
    assert record.value == pytest.approx(means[0] - means[1]) and record.spread[0] < record.value
    assert 0 < p.value <= 1 and "Mamba: branch 0 → 0.1" in page


def test_a_pair_that_was_recorded_the_other_way_round_is_turned(folder, tmp_path):
    run = load_run(folder, report_of)
    (before,) = dropouts(run)
    for i, record in enumerate(run.records):
        if record.model == "mamba_dropout - mamba":
            low, high = record.spread or (0, 0)
            turned = {"model": "mamba - mamba_dropout"}
            if record.metric == "bleu_difference":
                turned |= {"value": -record.value, "spread": (-high, -low)}
            run.records[i] = Record(**(vars(record) | turned))
    (after,) = dropouts(run)
    assert (after[2].value, after[2].spread) == (before[2].value, before[2].spread)


def test_lengths_and_careless_sources_have_tables(page):
    assert "By length of the source" in page and "9 to 12 words" in page and "1 to 8 words" in page
    assert "typos in 5 % of words" in page and "+3.50" in page  # the mean over seeds


def test_examples_are_those_that_differ_most(page, folder):
    scores = scores_of(load_run(folder, report_of))
    chosen = most_different(scores)
    assert chosen[0] == 5 and len(chosen) == 12
    assert "(empty)" in page and "no fair sample. Of the first seed." in page
    assert most_different({"a": scores["mamba"], "b": scores["mamba"]}) == []


def test_a_warning_of_sacrebleu_is_on_the_page(tmp_path):
    folder = make_run(tmp_path / "tokenised", seeds=(0,), ends=" .")
    page = plain(write_report(folder, report_of).read_text("utf-8"))
    assert "Transformer: That's 100 lines that end in a tokenized period" in page
    assert "no fair sample. Of" not in page and "one seed trained" in page


def test_damaged_scores_are_a_note_on_the_page(tmp_path):
    folder = make_run(tmp_path / "damaged", seeds=(0,))
    (folder / "models" / "mamba" / "scores.npz").write_bytes(b"half")
    page = plain(write_report(folder, report_of).read_text("utf-8"))
    assert "no scores that can be read" in page and "Side by side" in page
    (folder / "test.src").unlink()
    assert "Side by side" not in plain(write_report(folder, report_of).read_text("utf-8"))


def test_several_runs_are_set_side_by_side(folder, tmp_path):
    more = make_run(tmp_path / "thirtythousand", train=29_000, seeds=(0,))
    page = plain(write_report(folder, report_of, [more]).read_text("utf-8"))
    assert "thirtythousand, en-fr 29,000" in page and "tenthousand, en-fr 10,000" in page
    run = load_run(folder, report_of)
    run.others = [load_run(more, report_of)]
    found = spots(run, "pairs")
    assert {(pair, x) for pair, _, x, _ in found} == {("en-fr", 10_000.0), ("en-fr", 29_000.0)} and len(found) == 6
    assert (folder / "plots" / "runs-pairs.svg").is_file() and not (folder / "plots" / "runs-parameters.svg").is_file()
    write_report(folder, report_of)


def test_models_of_several_runs_are_tested_as_those_of_one(folder, tmp_path):
    """The same models, one a run: the same differences, and what dropout does."""
    parts = []
    for label in ARMS:
        part = copytree(folder, tmp_path / label)
        info = read_json(part / "run.json")
        keep = [model for model in info["models"] if model["label"] == label]
        write_json(part / "run.json", info | {"name": label, "models": keep})
        write_records(part / "records.jsonl", [r for r in load_run(folder, report_of).records if r.model == label])
        before, own, after = RECIPE.partition(f'label = "{label}"')
        table = before.rsplit("[[models]]", 1)[1] + own + after.split("[[models]]")[0]
        (part / "recipe.toml").write_text(f"[[models]]{table}")
        parts.append(part)
    alone, run = load_run(folder, report_of), load_runs(parts[0], report_of, [*parts[1:], parts[0]])
    assert len(run.others) == 2  # the first was given twice
    whole, joined = (differing(each).pairs[0][1] for each in (alone, run))
    assert [(p.second, p.first, p.difference.value) for p in joined] == [
        (p.second, p.first, p.difference.value) for p in whole
    ]
    assert all(p.difference.spread and HOLM in p.ps for p in joined)
    ((title, changed, record, p),) = dropouts(run)
    assert (title, changed) == ("Mamba", "branch 0 → 0.1") and record.value == dropouts(alone)[0][2].value and p
    text = plain(write_report(parts[0], report_of, parts[1:]).read_text("utf-8"))
    assert "Mamba: branch 0 → 0.1" in text and "Mamba − Transformer" in text
    (path, *_) = export(parts[0], report_of, ["markdown"], parts[1:])
    assert "Mamba With Dropout − Mamba" in path.read_text("utf-8")
    (parts[1] / "test.ref").write_text("others\n")
    text = plain(write_report(parts[0], report_of, parts[1:]).read_text("utf-8"))
    assert "not to be compared with transformer: mamba." in text and "Mamba − Transformer" not in text


def test_models_of_one_name_are_called_after_their_runs(folder, tmp_path):
    more = make_run(tmp_path / "again", train=29_000, seeds=(0,))
    run = load_runs(folder, report_of, [more])
    names = [arm.name for arm in arms_of(run)]
    assert len(set(names)) == 6 and "Mamba (again)" in [arm.title for arm in arms_of(run)]
    assert len(differing(run).pairs[0][1]) == 15
    (more / "models" / "mamba" / "scores.npz").write_bytes(b"half")
    assert len(differing(run).pairs[0][1]) == 3 and "no scores that can be read" in run.problems[-1]


def test_other_tasks_have_no_page_of_several_runs(folder, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "run.json").write_text(json.dumps({"task": "classify"}))
    write_records(other / "records.jsonl", [Record(metric="accuracy", value=1.0, model="a", split="test")])
    for pair in ((folder, other), (other, folder)):
        with pytest.raises(UserError, match="runs of translation models alone"):
            write_report(pair[0], report_of, [pair[1]])

"""The page of a run: order, escaping, self-containedness, and what is missing."""

import json
import re
import shutil
from collections import Counter
from html.parser import HTMLParser

import pytest
from fake_run import Fake, make_run

from ssmlab.core.errors import UserError
from ssmlab.core.files import write_records
from ssmlab.core.record import Record
from ssmlab.reports import html as pages
from ssmlab.reports import plots, series
from ssmlab.reports.html import write_report
from ssmlab.tasks.table import report_of

VOID = {"meta", "img", "br", "col", "path", "use", "rect", "circle"}


class Page(HTMLParser):
    """Tags with attributes in order, balanced or not, and the visible text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.wrong, self.words = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if tag not in VOID and (not self.open or self.open.pop() != tag):
            self.wrong.append(tag)

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", "".join(self.words)).replace("\u00a0", " ")


def read(folder):
    return (folder / "report.html").read_text(encoding="utf-8")


def remade(tmp_path, monkeypatch, fake=None, images=0, draw=False):
    """A page without its plots, which most tests do not look at and which take nearly all of the time."""
    folder = make_run(tmp_path / "run", fake, images=images)
    if not draw:
        monkeypatch.setattr(pages, "draw", lambda run, verdict: {})
    write_report(folder, report_of)
    return folder


@pytest.mark.parametrize("kind", ["digits", "tissue", "hostile"])
def test_the_page_is_well_formed_and_needs_nothing_else(kind, request):
    content = read(request.getfixturevalue(kind))
    page = Page(content)
    assert not page.wrong
    assert not page.open
    assert not {"script", "link", "iframe", "object", "base"} & {tag for tag, _ in page.tags}
    ids = Counter(a["id"] for _, a in page.tags if "id" in a)
    assert max(ids.values()) == 1
    for tag, attributes in page.tags:
        for key, value in attributes.items():
            assert not key.startswith("on"), (tag, key)
            if key in ("src", "href", "xlink:href", "action", "data"):
                assert value.startswith(("#", "data:image/")), (tag, key, value)
                assert not value.startswith("#") or value[1:] in ids, value
    assert not re.search(r"url\((?!#)|@import|https?://", content)


def test_everything_from_outside_is_escaped(hostile):
    content = read(hostile)
    page = Page(content)
    for text in (
        "<script>alert(1)</script>",
        "<script>alert(2)</script>",
        "<img src=x onerror=alert(3)>",
        "B & <i>",
    ):
        assert text not in content
        assert text in page.text
    for plot in (hostile / "plots").glob("*.svg"):
        assert "<script" not in plot.read_text(), plot.name


def test_the_answer_comes_first(digits):
    text = read(digits)
    places = [
        text.index(mark)
        for mark in (
            "<h1",
            "ResNet-18</span> + Mamba wins",
            '<table class="comparison',
            "<aside",
            'id="curves"',
            'id="confusion"',
            'id="roc"',
            'id="classes"',
            'id="samples"',
            'id="method"',
            'id="data"',
            'id="run"',
        )
    ]
    assert places == sorted(places)


def test_it_says_how_the_numbers_were_made(digits):
    text = Page(read(digits)).text
    for said in (
        "360 images of the test part",
        "of shares Wilson's over the test images",
        "corrected for all pairs of models",
        "median of 10 repeats",
        "warm-up",
        "b7c1f0a2d94e",
        "1,294 training, 143 validation, 360 test",
        "AMD EPYC 9454P",
        "torch 2.15.0",
        "3f2a9c1",
        'optimizer = "adamw"',
        "3 min 21 s",
        "16 tokens",
    ):
        assert said in text, said


def test_segmentation_counts_patches_everywhere(tmp_path):
    costs = {"macs": 2e6, "images_per_second": 30.0}
    records = [Record(task="segment", model="a", metric=metric, value=value) for metric, value in costs.items()]
    records.append(Record(task="segment", model="a", split="test", metric="dice", value=0.8, spread=(0.7, 0.9), n=8))
    write_records(tmp_path / "records.jsonl", records)
    text = Page(read(write_report(tmp_path, report_of).parent)).text
    for said in ("Patches per second", "one patch's forward pass", "patches per second, prediction", "a larger image"):
        assert said in text, said
    assert "per image" not in text and "mages per second" not in text


def test_it_can_be_read_without_eyes_and_in_both_schemes(digits):
    page = Page(read(digits))
    images = [a for tag, a in page.tags if tag == "img"]
    assert len(images) == 12
    assert all(len(a["alt"]) > 5 for a in images)
    drawings = [a for _, a in page.tags if a.get("role") == "img"]
    assert len(drawings) == 5
    assert all(len(a["aria-label"]) > 20 for a in drawings)
    tables = sum(tag == "table" for tag, _ in page.tags)
    assert tables == sum(tag == "thead" for tag, _ in page.tags) > 3
    assert all("scope" in a for tag, a in page.tags if tag == "th" and a.get("class") != "left")
    assert dict(page.tags)["html"]["lang"] == "en"
    content = read(digits)
    assert "prefers-color-scheme: dark" in content
    drawn = re.findall(r'<svg viewBox="[^"]*" class="plot".*?</svg>', content, flags=re.DOTALL)
    assert len(drawn) == 5
    assert not [colour for svg in drawn for colour in re.findall("#[0-9a-fA-F]{6}", svg)]


def test_images_that_models_got_wrong_come_first(digits):
    cards = re.findall(r'<li class="card">.*?</li>', read(digits))
    wrong = [card.count('class="wrong"') for card in cards]
    assert wrong[0] == 2
    assert wrong == sorted(wrong, reverse=True)


def test_a_page_is_the_same_when_it_is_made_again(digits, tmp_path):
    copy = tmp_path / "digits"
    shutil.copytree(digits, copy)
    write_report(copy, report_of)
    assert read(copy) == read(digits)
    assert not list(copy.rglob("*.tmp"))
    assert sorted(p.name for p in (copy / "plots").iterdir()) == [
        "accuracy-throughput.svg",
        "confusion-1.svg",
        "confusion-2.svg",
        "curves-accuracy.svg",
        "curves-loss.svg",
        "margin.svg",
        "roc.svg",
    ]


def test_a_run_stopped_half_way_says_so(tmp_path, monkeypatch):
    folder = remade(tmp_path, monkeypatch, Fake(unfinished=True), draw=True)
    text = Page(read(folder)).text
    assert "Not finished: ResNet-18 reaches" in text
    assert "ResNet-18 + Mamba has reached step 126" in text
    assert "--resume" in text
    assert "not finished" in text
    assert 'id="curves"' in read(folder)


def test_one_model_has_no_margin(tmp_path, monkeypatch):
    folder = remade(tmp_path, monkeypatch, Fake(models=Fake.models[:1]))
    assert "<aside" not in read(folder)
    assert "ResNet-18: classifies" in Page(read(folder)).text


def test_without_probabilities_there_is_no_roc(tmp_path):
    from ssmlab.reports.run_folder import load_run

    run = load_run(make_run(tmp_path / "run", Fake(probabilities=False), images=0), report_of)
    assert series.roc(run, "resnet18") is None
    assert plots.roc(run) is None
    assert plots.speed(run) is not None


def test_an_interval_with_zero_is_said_plainly(tissue):
    text = Page(read(tissue)).text
    assert "No clear winner: " in text
    assert "includes zero" in text
    assert "Sensitivity (SSA)" in text


def test_several_seeds_are_named(hostile):
    text = Page(read(hostile)).text
    assert "Mean of 2 seeds" in text
    assert "Summed over the seeds" in text
    assert "interval over test images and seeds" in text


def test_many_classes_show_the_mistakes_instead_of_a_matrix(tmp_path, monkeypatch):
    classes = tuple(f"kind {i}" for i in range(40))
    folder = remade(tmp_path, monkeypatch, Fake(classes=classes, counts=(900, 100, 600)))
    assert 'class="matrix"' not in read(folder)
    assert 'class="mistakes"' in read(folder)


def test_many_models_fit(tmp_path, monkeypatch):
    many = tuple((f"m{i}", f"Model {i}", 0.9 + i / 100, None, 1e6, 1e9, 0, 100) for i in range(8))
    folder = remade(tmp_path, monkeypatch, Fake(models=many))
    text = Page(read(folder)).text
    assert "the next of 8" in text
    assert "corrected for all pairs of models" in text


def test_what_is_missing_or_damaged_beside_the_records_is_said(tmp_path, monkeypatch):
    folder = make_run(tmp_path / "run")
    monkeypatch.setattr(pages, "draw", lambda run, verdict: {})
    (folder / "models/resnet18/predictions.csv").write_text("id,label\n1,2\n")
    (folder / "samples/samples.json").write_text('[{"file": ')
    (folder / "recipe.toml").unlink()
    write_report(folder, report_of)
    text = Page(read(folder)).text
    assert "no column predicted" in text
    assert "samples.json is damaged" in text
    assert 'id="samples"' not in read(folder)
    (folder / "run.json").unlink()
    write_report(folder, report_of)
    assert "run.json is missing" in Page(read(folder)).text


def test_no_file_outside_samples_gets_into_the_page(tmp_path, monkeypatch):
    folder = make_run(tmp_path / "run", images=1)
    monkeypatch.setattr(pages, "draw", lambda run, verdict: {})
    (folder / "secret.png").write_bytes(b"\x89PNG secret")
    rows = json.loads((folder / "samples/samples.json").read_text())
    (folder / "samples/samples.json").write_text(json.dumps([rows[0] | {"file": "../secret.png"}]))
    write_report(folder, report_of)
    assert "data:image" not in read(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: shutil.rmtree(f), "there is no run folder"),
        (lambda f: [(f / n).unlink() for n in ("run.json", "records.jsonl")], "not the folder of a run"),
        (lambda f: (f / "records.jsonl").write_text(""), "nothing was measured"),
        (lambda f: (f / "records.jsonl").write_text("{}\n{}\n"), "line 1: not a record"),
        (lambda f: (f / "run.json").write_text('{"name": '), "run.json is damaged"),
        (lambda f: (f / "run.json").write_text("[]"), "must hold an object"),
    ],
)
def test_a_damaged_run_is_one_line(tmp_path, damage, message):
    folder = make_run(tmp_path / "run", images=0)
    damage(folder)
    with pytest.raises(UserError, match=message) as error:
        write_report(folder, report_of)
    assert "\n" not in str(error.value)


def models(count):
    return tuple((f"m{i}", f"Model {i}", 0.9 + i / 100, 16, 1e6, 1e9, 1e6, 100) for i in range(count))


@pytest.mark.parametrize("count", [4, 5, 7])
def test_more_than_four_models_are_rows(tmp_path, monkeypatch, count):
    folder = remade(tmp_path, monkeypatch, Fake(models=models(count), classes=("a", "b"), counts=(90, 10, 60)))
    page = Page(read(folder))
    assert not page.wrong
    classes = [dict(attributes).get("class", "") for tag, attributes in page.tags if tag == "table"]
    assert any("models" in name.split() for name in classes) == (count > 4)
    assert any("comparison" in name.split() for name in classes) == (count <= 4)
    labels = Counter(attributes["data-label"] for tag, attributes in page.tags if "data-label" in attributes)
    if count > 4:
        assert labels["Accuracy"] == labels["Parameters"] == labels["Peak memory"] == count
        assert "Precision and recall are in records.jsonl" in page.text and labels["Model 1, F1"] == 4
    else:
        assert labels["Model 1"] > 10 and labels["Model 1, F1"] == 4
    heads = re.findall(r'<table class="models.*?</thead>', read(folder), flags=re.S)
    assert all(head.count("<th") <= 9 for head in heads), "eight measures and the model"

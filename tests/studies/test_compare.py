"""Comparisons: what a name means, what is measured, what is written."""

import io
import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from ssmlab.checkpoints.folder import save_model
from ssmlab.core.errors import ModelError, UserError
from ssmlab.core.files import write_records
from ssmlab.core.progress import Progress
from ssmlab.core.record import Record, read_records
from ssmlab.core.statistics.comparing import PERMUTATION
from ssmlab.data import open_images
from ssmlab.models import create_model
from ssmlab.reports.tables import to_markdown, to_rich
from ssmlab.studies.compare import Options, compare, published
from ssmlab.studies.compare.measure import differences, over_seeds, quality
from ssmlab.studies.compare.model_refs import find_model_refs
from ssmlab.studies.compare.pareto import ACCURACY, MACS, Spot, front, plot
from ssmlab.studies.compare.table import make_table
from ssmlab.studies.study import check_report_folder
from ssmlab.tasks.classify.predict import Classifier
from ssmlab.training.dataset import BatchedDataset
from ssmlab.training.predict import predict

QUICK = {"batch": 2, "repeats": 2, "device": "cpu"}
DIGITS = tuple("0123456789")


def save(folder, name="resnet_test", classes=DIGITS, image_size=32, seed=0):
    torch.manual_seed(seed)
    model = create_model(name, num_classes=len(classes), image_size=image_size)
    preprocess = {"image_size": image_size, "mean": [0.3] * 3, "std": [0.2] * 3, "classes": list(classes)}
    return save_model(model, folder, preprocess | {"channels": 3})


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two "trained" models in a run."""
    folder = tmp_path_factory.mktemp("runs")
    save(folder / "first" / "models" / "plain")
    save(folder / "first" / "models" / "hybrid", "resnet_mamba_test", classes=DIGITS[::-1], seed=1)
    return folder


def test_what_a_name_means(runs):
    both = find_model_refs(["first"], runs=runs)
    assert [(s.label, s.name, s.folder) for s in both] == [
        ("first/hybrid", "resnet_mamba_test", runs / "first" / "models" / "hybrid"),
        ("first/plain", "resnet_test", runs / "first" / "models" / "plain"),
    ]
    plain = runs / "first" / "models" / "plain"
    for place in (plain, plain / "model.safetensors"):
        (one,) = find_model_refs([str(place)], runs=runs)
        assert one == both[1] and one.state == f"trained, {plain}"
    named = find_model_refs([str(plain), "resnet_test", "vim_test", "timm/test_vit"], runs=runs)
    assert [s.state for s in named[1:]] == ["random"] * 3
    assert [s.title for s in named] == ["first/plain", "resnet_test", "a small Vim for tests", "test_vit"]


def test_weights_belong_to_a_network(runs, tmp_path):
    file = tmp_path / "a.safetensors"
    file.write_bytes(b"")
    assert find_model_refs(["vim_test"], [str(file)])[0].weights == file
    two = find_model_refs(["vim_test", "vmamba_test"], [f"vmamba_test={file}"])
    assert [s.weights for s in two] == [None, file]
    folder = runs / "first" / "models" / "plain"
    assert find_model_refs(["resnet_test"], [str(folder)])[0].weights == folder / "model.safetensors"
    with pytest.raises(UserError, match=r"Give --weights vim_test=FILE, --weights vmamba_test=FILE"):
        find_model_refs(["vim_test", "vmamba_test"], [str(file)])
    with pytest.raises(UserError, match="a trained model has its own"):
        find_model_refs(["first"], [str(file)], runs)
    with pytest.raises(UserError, match="there is no file nothing.pth"):
        find_model_refs(["vim_test"], ["nothing.pth"])


def test_mistakes_in_models(runs, tmp_path):
    for model, message in (
        ("resnet81", "there is no model 'resnet81'; did you mean resnet18"),
        ("frst", "did you mean first?"),
        ("timm/resnet81", "timm has no model 'resnet81'; did you mean resnet18"),
        ("mamba_lm_130m", "mamba_lm_130m is a language model, compare takes vision models"),
        (str(tmp_path), "no trained model in .*; train one first"),
        (str(runs / "first" / "models" / "plain" / "config.json") + "x", "there is no model"),
    ):
        with pytest.raises(ModelError, match=message):
            find_model_refs([model], runs=runs)
    with pytest.raises(UserError, match="vim_test is there twice"):
        find_model_refs(["vim_test", "vim_test"])
    alone = tmp_path / "w.pth"
    alone.write_bytes(b"x")
    with pytest.raises(ModelError, match="a file of weights needs a name: NAME --weights FILE"):
        find_model_refs([str(alone)])
    broken = save(tmp_path / "broken")
    (broken / "preprocess.json").write_text("{}")
    with pytest.raises(ModelError, match="lacks image_size, mean, std, classes"):
        find_model_refs([str(broken)])


def test_all_names_that_are_none_are_listed(runs):
    with pytest.raises(ModelError) as found:
        find_model_refs(["resnet81", "resnet_test", "frst"], runs=runs)
    first, *rest = str(found.value).split("\n  ")
    assert first == "2 of 3 models cannot be opened:"
    assert rest == [
        "there is no model 'resnet81'; did you mean resnet18, resnet50?",
        "there is no model 'frst'; did you mean first?",
    ]


def test_a_device_that_is_not_here_is_told_before_data_are_read(monkeypatch, tmp_path):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UserError, match="device 'cuda' is not available here"):
        compare(["vim_test"], Options(device="cuda", data=str(tmp_path / "nowhere"), output=tmp_path / "c"))


def spot(label, x, y, index=0):
    return Spot(label, index, x, (x, x), y)


@pytest.mark.slow
def test_seeds_of_a_model_are_one(tmp_path):
    """Costs are those of the first, quality is the mean with Student's interval."""
    for seed in range(3):
        folder = save(tmp_path / "many" / "models" / f"plain_seed{seed}", seed=seed)
        write_records(folder / "records.jsonl", [Record(model="plain", seed=seed, metric="accuracy", value=0.1)])
    models = [{"label": "plain", "title": "Plain"}]
    (tmp_path / "many" / "run.json").write_text(json.dumps({"models": models}))
    options = Options(data="digits", limit=40, train=False, **QUICK)
    result = compare(["many"], replace(options, output=tmp_path / "c"), runs=tmp_path)
    (model,) = result.models
    assert (model.label, model.title) == ("many/plain", "Plain") and model.state.endswith("mean of 3 seeds")
    (accuracy,) = [r for r in result.records if r.metric == "accuracy"]
    each = []
    for folder in sorted((tmp_path / "many" / "models").iterdir()):
        found = compare([str(folder)], replace(options, output=tmp_path / folder.name)).records
        each += [record.value for record in found if record.metric == "accuracy"]
    assert accuracy.value == pytest.approx(np.mean(each))
    made = [[Record(metric=m, value=v, n=9) for m in ("accuracy", "f1")] for v in (0.5, 0.6, 0.7)]
    joined, f1 = over_seeds(made)
    assert joined.value == f1.value == pytest.approx(0.6)
    assert joined.spread[0] < f1.spread[0] and joined.spread[1] > f1.spread[1]  # accuracy's is over nine images too
    assert f1.spread == pytest.approx((0.6 - 4.3027 * 0.1 / 3**0.5, 0.6 + 4.3027 * 0.1 / 3**0.5), abs=1e-4)
    assert over_seeds(made[:1]) == made[0]
    assert accuracy.spread[0] <= accuracy.value <= accuracy.spread[1] and accuracy.n == 40
    assert sum(r.metric == "parameters" for r in result.records) == 1
    with pytest.raises(UserError, match=r"c holds a comparison already \(finished 20.*; add --overwrite, or --output"):
        compare(["many"], Options(train=False, **QUICK, output=tmp_path / "c"), runs=tmp_path)
    compare(["many"], Options(train=False, **QUICK, output=tmp_path / "c", overwrite=True), runs=tmp_path)


@pytest.mark.parametrize("content", ['{"finished": null}', '{"finished": "today"}', "{}", None])
def test_a_finished_report_is_not_overwritten(tmp_path, content):
    folder = tmp_path / "r"
    assert check_report_folder(folder, "x", "a test") == folder
    folder.mkdir()
    assert check_report_folder(folder, "x", "a test") == folder
    if content is None:
        (folder / "other").write_text("")
        with pytest.raises(UserError, match="holds files that are not a test; give another --output"):
            check_report_folder(folder, "x", "a test", overwrite=True)
        with pytest.raises(UserError, match="is a file"):
            check_report_folder(folder / "other", "x", "a test")
        return
    (folder / "x.json").write_text(content)
    assert check_report_folder(folder, "x", "a test", overwrite=True) == folder
    if "null" in content:
        assert check_report_folder(folder, "x", "a test") == folder, "an unfinished one goes on"
    else:
        with pytest.raises(UserError, match=r"holds a test already \(finished .*\); add --overwrite"):
            check_report_folder(folder, "x", "a test")


def test_the_front():
    spots = [spot("slow", 1, 0.9), spot("fast", 9, 0.5), spot("beaten", 5, 0.5), spot("middle", 6, 0.7)]
    assert front(spots, ACCURACY) == ["slow", "middle", "fast"]
    assert front(spots, MACS) == ["fast"]
    assert front([spot("a", 1, 1), spot("b", 1, 1)], ACCURACY) == ["a", "b"], "equals do not beat each other"
    assert front([spot("a", 2, 0.9001), spot("b", 1, 0.9004)], ACCURACY) == ["a"], "what prints alike is equal"
    assert front([], ACCURACY) == []


def test_the_plot_marks_the_front_and_separates_names():
    spots = [spot("abc"[i], 100 + i, 0.9, i) for i in range(3)]
    made = plot(spots, ACCURACY, {label: f"Model {label}" for label in "abc"}, 8)
    assert "On the Pareto front, filled and joined: Model c." in made.caption
    assert "Model a 90.0 % at 100 images/s" in made.alt
    found = re.findall(r'<text[^>]* x="([\d.]+)" y="([\d.]+)"[^>]*>Model (.)<', made.svg)
    assert sorted(label for _, _, label in found) == ["a", "b", "c"]
    places = [(float(x), float(y)) for x, y, _ in found]
    for i, (x, y) in enumerate(places):
        assert all(abs(x - other) >= 36 or abs(y - above) >= 11 for other, above in places[:i])
    assert plot([], MACS, {}, 8) is None


def test_published_numbers():
    tiny = published("vmamba_tiny")
    assert (tiny.top1, tiny.parameters, tiny.macs, tiny.images_per_second) == pytest.approx((0.826, 30e6, 4.9e9, 1686))
    assert tiny.hardware == "A100, batch 128" and "VMamba" in tiny.source and published("resnet18") is None
    from ssmlab.models.registry import MODELS
    from ssmlab.studies.compare.published import _table

    assert all(name in MODELS or name.startswith("timm/") for name in _table())


@pytest.mark.parametrize("name", ["mambavision_tiny", "mambavision_small", "vmamba_tiny", "vmamba_base", "vim_tiny"])
def test_published_sizes_are_those_of_our_networks(name):
    with torch.device("meta"):
        ours = sum(p.numel() for p in create_model(name, num_classes=1000).parameters())
    assert ours == pytest.approx(published(name).parameters, rel=0.025)


def test_names_alone_are_measured_by_cost(tmp_path):
    names = ["resnet_test", "vmamba_test", "mambavision_test", "vim_test", "medmamba_test", "timm/test_vit"]
    result = compare(names, Options(**QUICK, image_size=32), runs=tmp_path)
    records = read_records(result.folder / "records.jsonl")
    assert records == result.records and {r.model for r in records} == set(names)
    found = {(r.model, r.metric, r.class_): r for r in records}
    for name in names:
        assert found[name, "macs", None].value > found[name, "scan_macs", None].value >= 0
        assert found[name, "image_size", None].value == 32
        single, many = (found[name, "images_per_second", f"batch {b}"] for b in (1, 2))
        assert (single.n, many.n) == (20, 2) and many.spread[0] <= many.value <= many.spread[1]
        latencies = [found[name, "latency", f"percentile {p}"].value for p in (50, 90, 99)]
        assert latencies == sorted(latencies) and found[name, "cold_seconds", None].n == 1
        assert found[name, "train_images_per_second", "batch 2"].unit == "images/s"
        used, trained = (found[name, f"peak_memory_{p}", "batch 2"].value for p in ("inference", "training"))
        weights = 4 * found[name, "parameters", None].value
        assert used > weights and trained > 4 * weights, "gradients and two moments besides the weights"
    assert not any(r.metric == "accuracy" for r in records) and result.sizes == ""
    assert all(r.commit == result.stamp.commit and r.machine and r.versions and r.command for r in records)
    page = (result.folder / "report.html").read_text()
    assert "on the Pareto front of operations and images per second" in page and "no --data" in page
    assert (result.folder / "plots" / "macs-throughput.svg").is_file()
    assert not (result.folder / "plots" / "accuracy-throughput.svg").exists()
    settings = json.loads((result.folder / "compare.json").read_text())
    assert settings["settings"]["image_size"] == 32 and settings["models"][0]["weights"] == "random"
    assert not list(result.folder.rglob("*partial*"))


def exact(folder, limit):
    """Accuracy by hand."""
    from ssmlab.tasks.classify.data import spread_over_classes

    data = open_images("digits")
    part = data.test.take(spread_over_classes(data.test.labels, limit, 0))
    model = Classifier(folder, "cpu")
    images = torch.from_numpy(part.array(32)).permute(0, 3, 1, 2)
    images = BatchedDataset({"images": images, "labels": np.asarray(part.labels)})
    said = predict(model.network, model.task, images, batch_size=7, compute=model.compute).values.argmax(1)
    return sum(model.classes[i] == data.classes[j] for i, j in zip(said, part.labels)) / limit


def test_trained_models_are_tested_with_their_own_preprocessing(runs, tmp_path):
    said = []

    class Watch(Progress):
        def start(self, title, total, done=0, unit="images", per_step=1):
            said.append(title)

    options = Options(**QUICK, data="digits", limit=60, train=False)
    result = compare(["first", "vim_test"], replace(options, output=tmp_path / "c"), runs=runs, progress=Watch())
    found = {r.model: r for r in result.records if r.metric == "accuracy"}
    for label in ("plain", "hybrid"):  # the hybrid's classes stand in another order
        record = found[f"first/{label}"]
        assert record.value == pytest.approx(exact(runs / "first" / "models" / label, 60))
        assert (record.n, record.split) == (60, "test") and record.spread[0] <= record.value <= record.spread[1]
    assert "vim_test" not in found and result.reasons == {"vim_test": "random weights"}
    sizes = {r.model: r.value for r in result.records if r.metric == "image_size"}
    assert set(sizes.values()) == {32}, "a network by name takes the size of the trained ones beside it"
    assert not any("train" in r.metric for r in result.records)
    assert said[:2] == ["building", "timing"] and "testing first/plain" in said
    table = (tmp_path / "c" / "table.md").read_text()
    assert "| Accuracy |" in table and "not measured random weights" in table and "Macro F1" in table
    pairs = {(r.metric, r.class_): r for r in result.records if r.model == "first/plain - first/hybrid"}
    difference = pairs["accuracy_difference", None]
    assert difference.value == pytest.approx(found["first/plain"].value - found["first/hybrid"].value)
    assert difference.spread[0] <= difference.value <= difference.spread[1] and difference.n == 60
    assert pairs["p_of_accuracy_difference", None].unit == "McNemar's exact test"
    assert pairs["p_of_accuracy_difference", "Holm"].value == pairs["p_of_accuracy_difference", None].value
    assert {"p_of_loss_difference", "roc_auc_difference"} <= {metric for metric, _ in pairs}
    assert "# Differences of all pairs" in table and "60 images; McNemar's exact test." in table
    assert "points ahead of" in result.answer
    page = (tmp_path / "c" / "report.html").read_text()
    assert "Differences of all pairs" in page and "One seed was trained" in page
    assert "Test accuracy" in page and "front of accuracy and images per second" in page
    assert result.sizes.startswith("Networks by name (") and "--image-size N" in result.sizes
    assert "are measured at 32 x 32 pixels, the size at which " in result.sizes and "were trained" in result.sizes
    assert result.sizes in page and result.sizes in table
    terminal = Console(file=io.StringIO(), width=400)
    terminal.print(to_rich(result.table, slice(0, 2), stacked=True))
    assert "--image-size" not in terminal.file.getvalue(), "below the last models only"
    terminal.print(to_rich(result.table, slice(2, 4), stacked=True))
    assert re.sub(r"\s+", " ", terminal.file.getvalue()).count(result.sizes) == 1


def test_models_are_compared_by_whole_groups():
    """Ten patients of five equal images are ten cases; two seeds are a permutation, not McNemar's test."""
    random = np.random.default_rng(0)
    labels, patients = np.repeat(np.arange(10) % 2, 5), np.repeat(np.arange(10), 5)
    good = np.eye(2)[labels] * 3.0
    bad = np.eye(2)[np.repeat(random.integers(0, 2, 10), 5)] * 3.0
    groups = [f"p{i}" for i in patients]
    found = {(r.metric, r.class_): r for r in differences({"a": [good], "b": [bad]}, labels, groups)}
    whole = found["accuracy_difference", None]
    assert whole.model == "b - a" and whole.n == 10 and found["p_of_accuracy_difference", None].unit == PERMUTATION
    alone = {(r.metric, r.class_): r for r in differences({"a": [good], "b": [bad]}, labels, None)}
    images = alone["accuracy_difference", None]
    assert images.n == 50 and np.diff(whole.spread) > 1.5 * np.diff(images.spread)
    assert whole.value == images.value and found["p_of_accuracy_difference", None].value > 0.01
    assert alone["p_of_accuracy_difference", None].value < 0.001
    seeds = {(r.metric, r.class_) for r in differences({"a": [good, good], "b": [bad, good]}, labels, groups)}
    assert ("p_of_accuracy_difference", "these models") in seeds
    rows = {(r.metric, r.class_): r for r in quality(bad, labels, ("0", "1"), groups)}
    assert rows["group_accuracy", None].n == 10 and rows["accuracy", None].n == 50


def test_images_with_several_labels_are_compared_by_their_mean_area():
    random = np.random.default_rng(0)
    truths = random.integers(0, 2, (40, 3))
    good, bad = (truths * 2.0 - 1 + spread * random.standard_normal((40, 3)) for spread in (0.3, 2.0))
    found = {(r.metric, r.class_): r for r in differences({"a": [good], "b": [bad]}, truths, None)}
    assert found["label_auc_difference", None].value < 0 and found["p_of_label_auc_difference", None].value < 0.05
    rows = {(r.metric, r.class_): r.value for r in quality(bad, truths, ("x", "y", "z"), None)}
    assert 0.5 < rows["label_auc", None] < 1 and {"label_accuracy", "all_right"} <= {metric for metric, _ in rows}


def test_models_of_a_trial_have_no_winner(runs, tmp_path):
    """With test images there is no verdict; costs alone are costs of tiny models, which is said next to them."""
    shutil.copytree(runs / "first", tmp_path / "trial")
    write_records(tmp_path / "trial" / "records.jsonl", [Record(model="plain", metric="accuracy", value=0.1)])
    models = [{"label": "plain"}, {"label": "hybrid"}]
    (tmp_path / "trial" / "run.json").write_text(json.dumps({"trial": True, "models": models}))
    options = {**QUICK, "repeats": 1, "train": False}
    result = compare(["trial"], Options(**options, data="digits", limit=20, output=tmp_path / "c"), runs=tmp_path)
    titles = list(result.titles.values())
    both = "; ".join(f"{title} comes from a trial run (--smoke)" for title in titles)
    assert result.answer == f"No verdict: {both}"
    for file in ("report.html", "table.md"):
        assert result.answer in (tmp_path / "c" / file).read_text() and "Pareto front of acc" not in result.answer
    assert json.loads((tmp_path / "c" / "compare.json").read_text())["doubts"] == list(result.doubts)
    marked = {row.group for row in result.table.rows if any(cell.best for cell in row.cells)}
    assert marked and "Quality, test part" not in marked, "costs are costs, but none is the best"
    costs = replace(result, records=[r for r in result.records if r.metric != "accuracy"])
    assert costs.answer.endswith(f"front of operations and images per second; {both}")


def test_weights_of_a_file_are_tested_where_the_classifier_is_theirs(runs, tmp_path):
    plain = runs / "first" / "models" / "plain"
    few = save(tmp_path / "few", classes=("a", "b"))
    options = {**QUICK, "repeats": 1, "data": "digits", "limit": 20, "train": False, "image_size": 32}
    good = compare(["resnet_test"], Options(**options, weights=(str(plain),), output=tmp_path / "good"))
    assert [r.n for r in good.records if r.metric == "accuracy"] == [20] and good.reasons == {}
    other = compare(["resnet_test"], Options(**options, weights=(str(few),), output=tmp_path / "other"))
    assert other.reasons == {"resnet_test": "the classifier is not the file's"}
    assert not any(r.metric == "accuracy" for r in other.records)


def test_mistakes_are_told_before_anything_is_measured(runs, tmp_path):
    folder = tmp_path / "data"
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            (folder / part / name).mkdir(parents=True)
            for i in range(3):
                Image.new("RGB", (8, 8), (i * 9, len(part), len(name))).save(folder / part / name / f"{i}.png")
    message = r"first/hybrid was trained on 10 classes \(9, 8, 7, 6, ...\), .* has 2 classes \(cat, dog\)"
    with pytest.raises(UserError, match=message):
        compare(["first"], Options(**QUICK, data=str(folder)), runs=runs)
    with pytest.raises(UserError, match="--image-size is for networks by name"):
        compare(["first"], Options(**QUICK, image_size=64), runs=runs)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match="holds files that are not a comparison;"):
        compare(["vim_test"], Options(**QUICK, output=tmp_path / "full"))
    with pytest.raises(ModelError, match="patch"):
        compare(["vim_test"], Options(**QUICK, image_size=3, output=tmp_path / "none"))
    assert not (tmp_path / "none").exists()


def test_published_numbers_stand_beside_those_of_the_same_size():
    records = [
        Record(metric=metric, value=value, model="m")
        for metric, value in (("macs", 9.0), ("scan_macs", 1.0), ("flops", 18.0), ("scan_flops", 2.0))
    ]
    table = make_table(records, {"m": "M"}, {"m": "no --data"}, {"m": published("vmamba_tiny")}, 32)
    text = to_markdown(table)
    assert "## Published by the authors, not measured here" in text and "| MAC, printed as FLOPs | 4.9 G" in text
    assert "| MAC without the scan | 8 |" in text and "82.6 %" in text and "A100, batch 128" in text
    nothing = make_table(records, {"m": "M"}, {}, {"m": None}, 32)
    assert "Published" not in to_markdown(nothing)

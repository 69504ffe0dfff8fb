"""Segmentation from end to end: strategies, pretraining once a seed, the report, resuming, and what is wrong."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from ssmlab.core.errors import DataError, ModelError, RecipeError, UserError
from ssmlab.core.progress import Progress
from ssmlab.core.record import read_records
from ssmlab.experiments.run import run_recipe
from ssmlab.tasks.recipe import load_recipe
from ssmlab.tasks.segment import experiment
from ssmlab.tasks.segment.experiment import AT_EQUAL_SECONDS
from ssmlab.tasks.segment.metrics import ImageTable
from ssmlab.tasks.segment.planning import plan_of
from ssmlab.tasks.shared.experiment import compute_of
from ssmlab.tasks.table import load_data

ROADS = "segmentation/roads_umamba"
SCRATCH, TUNED, PLAIN = (
    "{name='umamba_bot',label='scratch'}",
    "{name='umamba_bot',label='fine_tuned',start='pretrained'}",
    "{name='residual_unet'}",
)


class Said(Progress):
    def __init__(self, until: int = 0):
        self.lines, self.titles, self.until = [], [], until

    def say(self, text):
        self.lines.append(text)

    def start(self, title, total, done=0, unit="images", per_step=1):
        self.titles.append(title)

    def update(self, done, note=""):
        if self.until and self.titles[-1] == "fine_tuned" and done == self.until:
            raise KeyboardInterrupt


def resolved(found):
    """A recipe with what the data decide, and these."""
    data = load_data(found)
    return experiment.resolve(found, data), data


def recipe(*changes):
    return load_recipe(ROADS, list(changes), smoke=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    said = Said()
    folder = run_recipe(recipe(), output=tmp_path_factory.mktemp("runs"), command="ssmlab run", progress=said)
    return folder, read_records(folder / "records.jsonl"), said


def test_a_run_measures_every_strategy(run):
    _, records, said = run
    models = ("scratch", "fine_tuned", "gradient_freezing", "residual_unet")
    for label in models:
        own = [r for r in records if r.model == label]
        final = {(r.split, r.metric, r.class_): r for r in own if r.step is None}
        for metric in ("dice", "iou", "precision", "recall", "surface_dice", "hausdorff95", "total_dice"):
            found = final["test", metric, None]
            low, high = found.spread
            assert low <= found.value <= high and np.isfinite(found.value), metric
            assert ("test", metric, "road") in final
        assert 0 < final["test", "constant_dice", "road"].value < 1
        assert final[None, "seconds_per_iteration", None].value > 0
        steps = [r.step for r in own if r.metric == "dice" and r.split == "val" and r.step]
        times = {r.step: r.value for r in own if r.metric == "seconds" and r.split == "val"}
        assert steps == [4, 8] and 0 < times[4] < times[8]
        assert ((None, "pretraining_seconds", None) in final) == (label in models[1:3])
    assert said.titles.count("umamba_bot_seed0") == 1, "pretrained once, for both strategies"
    assert any(line.startswith("gradient_freezing: frozen after step 2") for line in said.lines)


def test_differences_at_equal_iterations_and_seconds(run):
    folder, records, _ = run
    in_time = len(list(folder.glob(f"models/*/{AT_EQUAL_SECONDS}")))  # a slow one may have no snapshot by then
    assert in_time >= 1
    for metric, models in (("dice_difference", 4), ("dice_at_equal_seconds_difference", in_time)):
        pairs = {r.model: r for r in records if r.metric == metric}
        assert len(pairs) == models * (models - 1) // 2
        for found in pairs.values():
            low, high = found.spread
            assert low <= found.value <= high
    dice = {r.model: r.value for r in records if (r.split, r.metric, r.class_, r.step) == ("test", "dice", None, None)}
    difference = next(r for r in records if (r.model, r.metric) == ("fine_tuned - scratch", "dice_difference"))
    assert difference.value == pytest.approx(dice["fine_tuned"] - dice["scratch"], abs=1e-5)
    assert not list(folder.glob("models/*/snapshots"))


def test_what_a_run_leaves(run):
    folder, _, _ = run
    table = ImageTable.read(folder / "models" / "scratch" / "images.csv")
    assert len(table.ids) == 8 and table.classes == ("background", "road")
    assert (table.counts.sum((1, 2)) > 0).all()
    preprocess = json.loads((folder / "models" / "scratch" / "preprocess.json").read_text())
    assert preprocess["classes"] == ["background", "road"] and preprocess["patch_size"] == [32, 32]
    assert len(preprocess["mean"]) == 3 and (folder / "models" / "scratch" / "plan.toml").is_file()
    described = json.loads((folder / "run.json").read_text())["data"]
    assert described["counts"] == {"train": 20, "val": 2, "test": 8} and len(described["split_hash"]) == 64
    listed = json.loads((folder / "overlays" / "overlays.json").read_text())
    assert len(listed) == 2 and set(listed[0]["models"]) == {
        "scratch",
        "fine_tuned",
        "gradient_freezing",
        "residual_unet",
    }
    with Image.open(folder / "overlays" / listed[0]["truth"]) as picture:
        assert picture.size == (64, 64)


def test_the_report(run):
    page = (run[0] / "report.html").read_text()
    for title in ("Against seconds", "Differences", "Marked images", "Surface Dice", "Pretraining time", "Iteration"):
        assert title in page, title
    assert "Dice at equal iterations" in page and page.count("data:image/png") >= 10
    assert {"curves-dice.svg", "curves-loss.svg", "seconds-dice.svg", "seconds-loss.svg"} <= {
        file.name for file in (run[0] / "plots").iterdir()
    }
    assert "not a number" not in page


def test_the_saved_model_is_the_one_that_was_tested(run):
    from ssmlab.checkpoints.folder import load_model
    from ssmlab.tasks.segment.predict import predict_part

    folder, records, _ = run
    loaded, _ = load_model(folder / "models" / "fine_tuned")
    found, data = resolved(recipe())
    compute = compute_of(found, found.models[1])
    predicted = predict_part(loaded, experiment.task_of(found, data), data.test, compute)
    dice = next(r for r in records if (r.model, r.split, r.metric, r.class_) == ("fine_tuned", "test", "dice", None))
    assert predicted.numbers["dice"] == pytest.approx(dice.value, abs=1e-5)


def test_an_interrupted_run_goes_on_bit_equal(tmp_path, run):
    stopped, again, only = Said(until=5), Said(), recipe(f"models=[{TUNED}]", "trial=false")
    with pytest.raises(KeyboardInterrupt):
        run_recipe(only, output=tmp_path, progress=stopped)
    folder = run_recipe(only, output=tmp_path, resume=True, progress=again)
    assert "umamba_bot_seed0" in stopped.titles and "umamba_bot_seed0" not in again.titles
    tables = [(root / "models" / "fine_tuned" / "images.csv").read_text() for root in (folder, run[0])]
    assert tables[0] == tables[1]
    seconds = json.loads((folder / "models" / "fine_tuned" / "seconds.json").read_text())
    assert sorted(map(int, seconds)) == list(range(9))
    assert "reaches Dice 0." in (folder / "report.html").read_text()


def test_patterns_freeze_what_they_name(tmp_path):

    found, data = resolved(recipe('models.1.training={freeze=["*.mamba.*"]}'))
    network = experiment.build(found, data, found.models[1], 0)
    frozen = {name for name, p in network.named_parameters() if not p.requires_grad}
    assert frozen and all(".mamba." in name for name in frozen)
    assert frozen == {name for name, _ in network.named_parameters() if ".mamba." in name}
    assert all(p.requires_grad for p in experiment.build(found, data, found.models[0], 0).parameters())


def test_given_weights_start_everything_but_the_heads(run):
    from ssmlab.checkpoints.folder import load_model
    from ssmlab.tasks.segment.start import HEADS

    trained, _ = load_model(run[0] / "models" / "scratch")
    found, data = resolved(recipe(f"models.0.weights={run[0] / 'models' / 'scratch'}"))
    state = experiment.build(found, data, found.models[0], 0).state_dict()
    initial = experiment.network_of(found, data, "umamba_bot", 0).state_dict()
    for name, value in trained.state_dict().items():
        assert torch.equal(state[name], initial[name] if HEADS in name else value), name
    other = recipe(f"models.0.weights={run[0] / 'models' / 'scratch'}", "plan.features=[4,6]")
    with pytest.raises(ModelError, match="keys disagree"):
        experiment.build(experiment.resolve(other, data), data, other.models[0], 0)


def test_seeds_are_distinct_and_shared_by_the_strategies(run):

    found, data = resolved(recipe())
    one, two = (experiment.patches_of(found, data, found.training, s).__getitems__([0, 1]) for s in (0, 1))
    assert not torch.equal(one["images"], two["images"])
    again = experiment.patches_of(found, data, found.training_of(found.models[2]), 0).__getitems__([0, 1])
    torch.testing.assert_close(again["images"], one["images"], rtol=0, atol=0)


def test_everything_wrong_in_data_and_source_is_told_before_torch(tmp_path):
    for i in range(4):
        for folder in ("images", "masks"):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(np.full((8, 8), 255 * (i % 2), np.uint8)).save(tmp_path / folder / f"{i}.png")
    (tmp_path / "masks" / "0.png").unlink()
    (tmp_path / "images" / "1.png").write_bytes(b"")
    with pytest.raises(DataError) as caught:
        run_recipe(recipe(f"data.path={tmp_path}", f"source.path={tmp_path}"), output=tmp_path / "runs")
    assert len(caught.value.problems) == 4 and caught.value.exit_code == 2
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["source.path="], "need images to start on"),
        (["training.iterations=7"], "must be a multiple of validations=2"),
        (["models.0.name=umamba_bott"], "unknown segmentation model 'umamba_bott'; did you mean"),
        (["models.1.training={lerning_rate=1}"], r"models\.1\.training\.lerning_rate"),
        (["models.1.weights=nowhere"], "both say where weights come from|no such file"),
        (["training.min_steps=3"], "min_steps"),
    ],
)
def test_mistakes_in_the_recipe(tmp_path, changes, message):
    with pytest.raises(RecipeError, match=message):
        run_recipe(recipe(*changes), output=tmp_path)


@pytest.mark.slow
def test_a_mean_over_seeds(tmp_path):
    changes = [f"models=[{SCRATCH},{PLAIN}]", "seeds=[3, 4]", "training.iterations=80", "data.limit=4", "trial=false"]
    folder = run_recipe(recipe(*changes), output=tmp_path)
    assert not (folder / "pretrained").exists()
    page = re.sub(r"<[^>]+>", "", (folder / "report.html").read_text())
    assert "Mean of 2 seeds" in page and "at most 4 images of each part are used" in page
    assert "is missing" not in page  # of what was there while the run lasted


def volumes(root, count=6):
    nibabel = pytest.importorskip("nibabel")
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
    for i in range(count):
        voxels = np.random.default_rng(i).normal(size=(20, 18, 16)).astype(np.float32)
        labels = np.zeros(voxels.shape, np.uint8)
        labels[4:12, 4:12, 4 : 6 + i], labels[14:17, 4:9, 4:9] = 1, 2
        voxels += 2 * labels
        for name, array in ((f"imagesTr/case{i}_0000", voxels), (f"labelsTr/case{i}", labels)):
            affine = np.diag([1.0, 1.0, 1.5 if i % 3 else 3.0, 1.0])
            nibabel.save(nibabel.Nifti1Image(array, affine), root / f"{name}.nii.gz")
    described = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "organ": 1, "tumour": 2}}
    (root / "dataset.json").write_text(json.dumps(described | {"numTraining": count, "file_ending": ".nii.gz"}))
    return root


PLAN_3D = (
    "plan={patch_size=[8,8,8],features=[4,8],kernel_sizes=[[3,3,3],[3,3,3]],strides=[[1,1,1],[2,2,2]],"
    "n_conv_encoder=[1,1],n_conv_decoder=[1]}"
)


@pytest.mark.slow
def test_volumes(tmp_path):
    changes = [f"models=[{SCRATCH}]", "data.classes=[]", "evaluation.mirror=true"]
    folder = run_recipe(recipe(f"data.path={volumes(tmp_path / 'data')}", PLAN_3D, *changes), output=tmp_path)
    records = read_records(folder / "records.jsonl")
    found = {(r.metric, r.class_): r for r in records if r.model == "scratch" and r.split == "test"}
    assert {("dice", "organ"), ("dice", "tumour"), ("surface_dice", "tumour"), ("hausdorff95", None)} <= set(found)
    preprocess = json.loads((folder / "models" / "scratch" / "preprocess.json").read_text())
    assert preprocess["mean"] == [] and preprocess["channels"] == 1, "volumes are normalised each by itself"
    assert preprocess["spacing"] == [1.5, 1.0, 1.0], "the median, to which every volume is brought"
    assert "spacing = [1.5, 1.0, 1.0]" in (folder / "models" / "scratch" / "plan.toml").read_text()
    assert len(json.loads((folder / "overlays" / "overlays.json").read_text())) == 2


def test_volumes_are_brought_to_the_plans_spacing(tmp_path):

    plan = PLAN_3D.replace("plan={", "plan={spacing=[3.0,1.0,2.0],batch_size=3,")
    changes = [f"models=[{SCRATCH}]", "data.classes=[]", "training.batch_size=0"]
    found, data = resolved(recipe(f"data.path={volumes(tmp_path / 'data')}", plan, *changes))
    patches, _ = experiment.parts(found, data, found.models[0])
    sizes = {}
    for i, id_ in enumerate(data.train.ids):
        image, labels = patches.fetch(i)
        assert image.shape == (1, *labels.shape)
        sizes[id_[-13]] = tuple(labels.shape)
    # 16 slices of 3 mm stay, of 1.5 mm they become 8; rows of 18 stay, columns of 20 become 10
    assert {sizes[number] for number in sizes if int(number) % 3} == {(8, 18, 10)}
    assert {sizes[number] for number in sizes if int(number) % 3 == 0} <= {(16, 18, 10)}
    assert patches.__getitems__([0, 1, 2])["images"].shape == (3, 1, 8, 8, 8), "the plan says the batch"
    task, network = experiment.task_of(found, data), experiment.build(found, data, found.models[0], 0).eval()
    image, labels, spacing = task.fetch(0)
    assert task.predict(network, image, spacing).shape == (3, *labels.shape), "on the volume's own grid"


@pytest.mark.slow
def test_a_plan_in_2d_takes_the_slices_of_volumes(tmp_path):
    from ssmlab.tasks.segment.new_images import Segmenter, find_images
    from ssmlab.tasks.segment.options import SegmentOptions

    data = volumes(tmp_path / "data")
    plan = (
        "plan={patch_size=[8,8],features=[4,8],kernel_sizes=[[3,3],[3,3]],strides=[[1,1],[2,2]],n_conv_encoder=[1,1],"
        "n_conv_decoder=[1],spacing=[1.0,2.0]}"
    )
    changes = [f"models=[{SCRATCH}]", "data.classes=[]", "training.iterations=2"]
    folder = run_recipe(recipe(f"data.path={data}", plan, *changes), output=tmp_path / "runs")
    saved = folder / "models" / "scratch"
    assert json.loads((saved / "preprocess.json").read_text())["spacing"] == [0.0, 1.0, 2.0]
    assert "spacing = [1.0, 2.0]" in (saved / "plan.toml").read_text()
    segmenter = Segmenter(saved, SegmentOptions(out=tmp_path / "out"))
    (found,) = segmenter.run(find_images([data / "imagesTr" / "case0_0000.nii.gz"], 1)[0])
    import nibabel

    mask, image = (
        nibabel.load(file) for file in (tmp_path / "out" / "case0_0000.nii.gz", data / "labelsTr/case0.nii.gz")
    )
    assert not isinstance(found, str) and mask.shape == image.shape and np.array_equal(mask.affine, image.affine)


def test_a_plan_for_other_axes_is_told(tmp_path):
    changes = [f"models=[{SCRATCH}]", PLAN_3D]
    with pytest.raises(ModelError, match="plan: it is for images in 3-D, data.path has images in 2-D"):
        run_recipe(recipe(*changes), output=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_plan_in_a_file_becomes_part_of_the_recipe(tmp_path):
    found = recipe()
    from ssmlab.models.segmentation.plans import plan_from

    file = plan_from(found.plan).write(tmp_path / "plan.toml")
    again = recipe(f"plan={file}")
    assert again.plan == found.plan and "plan.toml" not in again.to_toml()


def test_a_plan_is_proposed_where_none_is_given():

    found, _ = resolved(recipe("training.batch_size=2").model_copy(update={"plan": ""}))
    plan = plan_of(found)
    assert plan.patch_size == (64, 64) and plan.batch_size == 2 and plan.n_stages > 2


def test_a_volume_to_be_segmented_may_hold_all_channels(tmp_path):
    from ssmlab.data.files import FolderFiles
    from ssmlab.data.masks.store import read_image
    from ssmlab.tasks.segment.new_images import find_images

    nibabel = pytest.importorskip("nibabel")
    voxels = np.arange(5 * 4 * 3 * 2, dtype=np.int16).reshape(5, 4, 3, 2)
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), tmp_path / "a.nii.gz")
    nibabel.save(nibabel.Nifti1Image(voxels[..., 0], np.eye(4)), tmp_path / "b.nii.gz")
    cases = find_images([tmp_path], 2)[0]
    assert [case.channels for case in cases] == [2, 1]
    image = read_image(FolderFiles(tmp_path), replace(cases[0], images=("a.nii.gz",))).image
    np.testing.assert_array_equal(image, voxels.transpose(3, 2, 1, 0))
    assert [case.channels for case in find_images([tmp_path], 1)[0]] == [1, 1]


@pytest.mark.slow
def test_folds_are_pooled_and_their_mean_is_a_model(tmp_path):
    from ssmlab.checkpoints.folder import load_model
    from ssmlab.models.ensemble import Ensemble
    from ssmlab.tasks.api import evaluate
    from ssmlab.tasks.segment.new_images import Segmenter

    data = volumes(tmp_path / "data")
    models = "models=[{name='residual_unet'},{name='resenc_unet'}]"
    changes = [f"data.path={data}", PLAN_3D, models, "data.classes=[]", "folds=3", "evaluation.mirror=true"]
    folder = run_recipe(recipe(*changes), output=tmp_path)
    records = read_records(folder / "records.jsonl")
    for label in ("residual_unet", "resenc_unet"):
        table = ImageTable.read(folder / "models" / label / "images.csv")
        assert len(set(table.ids)) == 6
        for fold in range(3):
            own = ImageTable.read(folder / "models" / label / f"fold{fold}" / "images.csv")
            rows = [table.ids.index(id_) for id_ in own.ids]
            assert np.array_equal(own.counts, table.counts[rows])
        found = {(r.split, r.metric, r.class_): r for r in records if r.model == label and r.step is None}
        assert found["test", "dice", None].n == 6 and found["fold0", "dice", None].n == 2
        assert ("fold0", "tta_gain", None) in found and (None, "tta_seconds", None) in found
        network, _ = load_model(folder / "models" / label, "segmentation")
        assert isinstance(network, Ensemble) and len(network.members) == 3
    assert "is missing" not in (folder / "report.html").read_text(), "weights between stretches are gone by now"
    over_folds = [r for r in records if (r.metric, r.class_) == ("p_of_dice_difference", "Nadeau-Bengio")]
    assert len(over_folds) == 1 and 0 <= over_folds[0].value <= 1
    rows = json.loads((folder / "splits_final.json").read_text())
    assert sorted(name for row in rows for name in row["val"]) == [f"case{i}" for i in range(6)]
    again = load_data(recipe(*changes, f"splits={folder / 'splits_final.json'}"))
    assert again.folds == load_data(load_recipe(folder)).folds
    segmenter = Segmenter(folder / "models" / "resenc_unet")
    assert len(segmenter.classes) == 3
    with pytest.raises(UserError, match="learned from every image"):
        evaluate(str(folder / "models" / "residual_unet"), progress=False)

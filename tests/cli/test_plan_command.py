"""`ssmlab plan`: proposed from a folder, written, edited, shown again; mistakes are one line and exit code 2."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from ssmlab.cli.main import main
from ssmlab.models.segmentation.plans import read_plan


def call(capsys, *arguments):
    """Exit code, and what is printed, with single spaces."""
    try:
        main(list(map(str, arguments)))
        code = 0
    except SystemExit as end:
        code = end.code or 0
    said = capsys.readouterr()
    return code, " ".join(said.out.split()), said.err


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")


def test_a_plan_is_proposed_written_edited_and_shown(tmp_path, capsys):
    file = tmp_path / "plan.toml"
    code, shown, _ = call(capsys, "plan", "shapes", "--out", file, "--features", "8", "--memory", "2")
    assert code == 0 and "30 images in 2-D, median 64 x 64; channels 3, classes 2" in shown
    assert "patch 64 x 64, batch 12, deep supervision" in shown and f"written to {file}" in shown
    plan = read_plan(file)
    assert plan.features[:3] == (8, 16, 32) and plan.patch_size == (64, 64)
    assert f"0 8 3 x 3 1 x 1 64 x 64 {plan.n_conv_encoder[0]} {plan.n_conv_decoder[-1]}" in shown
    code, _, told = call(capsys, "plan", "shapes", "--out", file)
    assert code == 2 and "perhaps edited; add --overwrite" in told and read_plan(file) == plan
    assert call(capsys, "plan", "shapes", "--out", file, "--features", "8", "--memory", "2", "--overwrite")[0] == 0
    text = file.read_text()
    assert "# channels of every stage, highest resolution first\nfeatures = [8, 16, 32" in text
    file.write_text(text.replace("patch_size = [64, 64]", "patch_size = [32, 64]"))
    code, shown, _ = call(capsys, "plan", file)
    assert code == 0 and "patch 32 x 64, batch 12" in shown


def test_memory_and_batch(tmp_path, capsys):
    sizes = []
    for gib in (1, 4):
        file = tmp_path / f"{gib}.json"
        assert call(capsys, "plan", volumes(tmp_path / "data"), "--memory", gib, "--batch-size", 3, "-o", file)[0] == 0
        sizes.append(np.prod(read_plan(file).patch_size))
        assert read_plan(file).batch_size == 3
    assert sizes[0] < sizes[1]


def volumes(root):
    nibabel = pytest.importorskip("nibabel")
    if root.exists():
        return root
    for name in ("imagesTr/a_0000", "labelsTr/a"):
        path = root / f"{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(np.ones((70, 64, 20), np.uint8), np.diag([0.8, 0.8, 4.0, 1.0])), path)
    described = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "a": 1, "b": 2}, "file_ending": ".nii.gz"}
    (root / "dataset.json").write_text(json.dumps(described))
    return root


def test_anisotropic_volumes(tmp_path, capsys):
    file = tmp_path / "plan.toml"
    code, shown, _ = call(capsys, "plan", volumes(tmp_path / "data"), "--features", 4, "-o", file)
    assert code == 0 and "median 20 x 64 x 70 at a spacing of 4 x 0.8 x 0.8; channels 1, classes 3" in shown
    plan = read_plan(file)
    assert plan.kernel_sizes[0] == (1, 3, 3) and plan.strides[1] == (1, 2, 2) and plan.spacing == (4.0, 0.8, 0.8)


def test_nnunets_plans_are_turned_into_ours(tmp_path, capsys):
    sizes = {
        "patch_size": [32, 48],
        "conv_kernel_sizes": [[3, 3]] * 2,
        "pool_op_kernel_sizes": [[1, 1], [2, 2]],
        "n_conv_per_stage_encoder": [2] * 2,
        "n_conv_per_stage_decoder": [2],
        "UNet_base_num_features": 8,
        "unet_max_num_features": 32,
    }
    given, file = tmp_path / "plans.json", tmp_path / "plan.toml"
    given.write_text(json.dumps({"configurations": {"2d": sizes, "other": sizes}}))
    assert call(capsys, "plan", given, "--configuration", "2d", "-o", file)[0] == 0
    assert read_plan(file).features == (8, 16)
    code, _, told = call(capsys, "plan", given)
    assert code == 2 and told.count("\n") == 1 and "the configurations 2d, other; name one of them" in told


GOOD = {
    "patch_size": [8, 8],
    "features": [4, 8],
    "kernel_sizes": [[3, 3], [3, 3]],
    "strides": [[1, 1], [2, 2]],
    "n_conv_encoder": [1, 1],
    "n_conv_decoder": [1],
}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"feature": [4, 8]}, "unknown feature; did you mean features?"),
        ({"features": 8}, "features must be a list, got 8"),
        ({"features": [4, 8, 16]}, "kernel_sizes must have 3 entries for 3 stages"),
        ({"features": [4, 8.5]}, "every size but the spacing must be a whole number of at least 1, got 8.5"),
        ({"spacing": ["a", 1]}, "spacing must be above 0"),
        ({"spacing": [1]}, "spacing must have 2 numbers"),
        ({"batch_size": [2]}, "batch_size must be a number, got (2,)"),
        ({"deep_supervision": "no"}, "deep_supervision must be true or false, got 'no'"),
    ],
)
def test_bad_files_are_one_line(tmp_path, capsys, change, said):
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(GOOD | change))
    recipe = ("run", "segmentation/roads_umamba", "data.path=shapes", "source.path=cells", f"plan={file}")
    for arguments in (("plan", file), (*recipe, "--output", tmp_path / "runs")):
        code, shown, told = call(capsys, *arguments)
        assert code == 2 and told.count("\n") == 1 and f"{file}: " in told and said in told, told
        assert not shown and not (tmp_path / "runs").exists()


def test_what_cannot_be_planned(tmp_path, capsys):
    for arguments, said in (
        (("nowhere",), "nowhere: no such file or folder"),
        (("nowhere.toml",), "there is no plan nowhere.toml"),
        (("shapes", "-o", tmp_path / "plan.yaml"), "as .toml or .json, got plan.yaml"),
        (("shapes", "-o", tmp_path / "none" / "plan.toml"), "there is no folder"),
        (("shapes", "--dims", "3"), "dims=3 does not fit"),
        (("shapes", "--memory", "0.2"), "must hold 2 patches"),
    ):
        code, _, told = call(capsys, "plan", *arguments)
        assert code == 2 and told.count("\n") == 1 and said in told, told
    assert not list(tmp_path.iterdir())


def test_damaged_data_are_told_all_at_once(tmp_path, capsys):
    for i in range(3):
        for folder in ("images", "masks"):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(np.full((32, 32), 3 * i, np.uint8)).save(tmp_path / folder / f"{i}.png")
    assert call(capsys, "plan", tmp_path, "--classes", 3)[0] == 0, "what values mean does not matter here"
    (tmp_path / "masks" / "0.png").unlink()
    (tmp_path / "images" / "1.png").write_bytes(b"")
    code, _, told = call(capsys, "plan", tmp_path, "-o", tmp_path / "plan.toml")
    assert code == 2 and "0.png: an image without a mask" in told and "1.png: cannot be read" in told
    assert not (tmp_path / "plan.toml").exists()


def test_nothing_heavy_is_imported():
    code = (
        "import sys; from ssmlab.cli.main import main\n"
        "try: main(['plan', 'shapes'])\n"
        "except SystemExit as end: print(end.code, sorted({'torch', 'scipy', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []", done.stdout + done.stderr


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ((0, 1, 2, 5), "classes 4 patch"),
        ((0, 255), "classes 2 patch"),
        ((0, (9, 8, 7)), "classes 2 (assumed, nothing says"),
    ],
)
def test_classes_are_those_in_the_masks(tmp_path, capsys, values, said):
    for i in range(6):
        for folder in ("images", "masks"):
            (tmp_path / folder).mkdir(exist_ok=True)
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (32, 32, 3), np.uint8)).save(
            tmp_path / f"images/{i}.png"
        )
        mask = np.zeros((32, 32) if isinstance(values[-1], int) else (32, 32, 3), np.uint8)
        for k, value in enumerate(values):
            mask[8 * k : 8 * k + 8] = value
        Image.fromarray(mask).save(tmp_path / f"masks/{i}.png")
    code, shown, _ = call(capsys, "plan", tmp_path, "--features", 4)
    assert code == 0 and said in shown

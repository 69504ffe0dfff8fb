"""`ssmlab segment`: masks, overlays and probabilities of images and volumes, and one report for what is wrong."""

import numpy as np
import pytest
import torch
from calling import call
from PIL import Image

from ssmlab.checkpoints.folder import save_model
from ssmlab.core.files import write_records
from ssmlab.core.record import Record
from ssmlab.models import create_model
from ssmlab.models.segmentation.plans import Plan
from ssmlab.tasks.segment.task import normalised
from ssmlab.tasks.shared.regrid import regrid
from ssmlab.tasks.shared.sliding import predict_windows


def saved(folder, *, dims=2, channels=3, classes=("background", "road"), name="umamba_enc", spacing=(), **more):
    plan = Plan(
        patch_size=(16,) * dims,
        features=(4, 8),
        kernel_sizes=((3,) * dims,) * 2,
        strides=((1,) * dims, (2,) * dims),
        n_conv_encoder=(1, 1),
        n_conv_decoder=(1,),
    )
    network = create_model(name, plan=plan, num_classes=len(classes), in_chans=channels, seed=0).eval()
    how = {"task": "segment", "classes": list(classes), "mean": [0.4] * channels, "std": [0.2] * channels}
    how |= {"spacing": list(spacing), **more}
    return network, save_model(network, folder, how)


def picture(path, size=(30, 25), seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return torch.from_numpy(pixels).permute(2, 0, 1)


def test_masks_overlays_and_probabilities(tmp_path, capsys):
    network, _ = saved(tmp_path / "run" / "models" / "enc")
    pixels = picture(tmp_path / "images" / "a.png")
    picture(tmp_path / "images" / "b.tif", (16, 40), 1)
    out = tmp_path / "out"
    options = ("--probabilities", "--mirror", "--overlap", "0.25", "--batch-size", "2")
    assert call("segment", tmp_path / "run", tmp_path / "images", "--out", out, *options) == 0
    assert {f.name for f in out.iterdir()} == {
        f"{name}{end}" for name in "ab" for end in (".png", "_overlay.png", "_probabilities.npz")
    }
    expected = predict_windows(network, normalised(pixels, [0.4] * 3, [0.2] * 3), (16, 16), 0.25, mirror=(0, 1))
    stored = np.load(out / "a_probabilities.npz")
    np.testing.assert_allclose(stored["probabilities"], expected.numpy(), atol=1e-3)
    assert list(stored["classes"]) == ["background", "road"]
    mask = np.asarray(Image.open(out / "a.png"))
    np.testing.assert_array_equal(mask, expected.argmax(0).numpy() * 255)
    assert 0 < (mask == 255).mean() < 1
    shown, drawn = pixels.permute(1, 2, 0).numpy(), np.asarray(Image.open(out / "a_overlay.png"))
    np.testing.assert_array_equal((drawn != shown).any(-1), mask == 255)
    assert capsys.readouterr().out.startswith(f"a: road {(mask == 255).mean():.1%}\nb: road ")


def test_more_classes_are_numbered(tmp_path):
    network, folder = saved(tmp_path / "model", classes=("background", "one", "two", "three"), channels=1)
    pixels = picture(tmp_path / "a.png")
    assert call("segment", folder, tmp_path / "a.png", "--out", tmp_path / "out") == 0
    grey = np.rint(pixels.double().numpy().T @ [0.299, 0.587, 0.114]).T.astype(np.uint8)[None]
    expected = predict_windows(network, normalised(torch.from_numpy(grey), [0.4], [0.2]), (16, 16)).argmax(0)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out" / "a.png")), expected.numpy())
    assert expected.unique().numel() > 2


def test_volumes_lie_where_their_images_do(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    network, folder = saved(tmp_path / "model", dims=3, channels=2)
    affine = np.diag([0.5, 0.75, 2.0, 1.0])
    affine[:3, 3] = (1, 2, 3)
    voxels = np.random.default_rng(0).normal(size=(2, 18, 20, 16)).astype(np.float32)
    for i, channel in enumerate(voxels):
        nibabel.save(nibabel.Nifti1Image(channel, affine), tmp_path / f"case_{i:04d}.nii.gz")
    files = [tmp_path / f"case_{i:04d}.nii.gz" for i in range(2)]
    assert call("segment", folder, *files, "--out", tmp_path / "out") == 0
    mask = nibabel.load(tmp_path / "out" / "case.nii.gz")
    np.testing.assert_array_equal(mask.affine, affine)
    image = normalised(torch.from_numpy(voxels.transpose(0, 3, 2, 1).copy()), [0.4] * 2, [0.2] * 2)
    expected = predict_windows(network, image, (16,) * 3).argmax(0).numpy().T
    np.testing.assert_array_equal(np.asanyarray(mask.dataobj), expected)
    with Image.open(tmp_path / "out" / "case_overlay.png") as overlay:
        assert overlay.size == (18, 20)


def test_volumes_are_brought_to_the_spacing_of_the_training(tmp_path, capsys):
    nibabel = pytest.importorskip("nibabel")
    network, folder = saved(tmp_path / "model", dims=3, channels=1, spacing=[4.0, 1.0, 1.0])
    affine = np.diag([0.5, 1.0, 2.0, 1.0])
    voxels = np.random.default_rng(0).normal(size=(36, 20, 30)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(voxels, affine), tmp_path / "a.nii.gz")
    assert call("segment", folder, tmp_path / "a.nii.gz", "--out", tmp_path / "out", "--probabilities") == 0
    image = normalised(torch.from_numpy(voxels.T.copy())[None], [0.4], [0.2])
    expected = regrid(predict_windows(network, regrid(image, (15, 20, 18)), (16,) * 3), (30, 20, 36))
    mask = nibabel.load(tmp_path / "out" / "a.nii.gz")
    np.testing.assert_array_equal(np.asanyarray(mask.dataobj).T, expected.argmax(0).numpy())
    np.testing.assert_array_equal(mask.affine, affine)
    stored = np.load(tmp_path / "out" / "a_probabilities.npz")["probabilities"]
    np.testing.assert_allclose(stored, expected.numpy(), atol=1e-3)


def test_channels_that_lie_elsewhere_are_told(tmp_path, capsys):
    nibabel = pytest.importorskip("nibabel")
    _, folder = saved(tmp_path / "model", dims=3, channels=2)
    for i in range(2):
        place = np.diag([1.0, 1.0, 1.0 + i, 1.0])
        nibabel.save(nibabel.Nifti1Image(np.ones((16, 16, 16), np.float32), place), tmp_path / f"a_{i:04d}.nii.gz")
    files = [tmp_path / f"a_{i:04d}.nii.gz" for i in range(2)]
    assert call("segment", folder, *files, "--out", tmp_path / "out") == 2
    assert "lies elsewhere than" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_everything_wrong_is_told_at_once(tmp_path, capsys):
    _, folder = saved(tmp_path / "model", channels=3)
    for name in ("x", "y"):
        picture(tmp_path / name / "same.png")
    (tmp_path / "empty").mkdir()
    given = [tmp_path / name for name in ("x", "y", "empty", "none.png")]
    assert call("segment", folder, *given, "--out", tmp_path / "out") == 2
    said = capsys.readouterr().err
    for words in ("would overwrite that of", "no images in this folder", "no such file or folder", "3 of the images"):
        assert words in said
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_read_does_not_stop_the_rest(tmp_path, capsys):
    _, folder = saved(tmp_path / "model")
    picture(tmp_path / "images" / "good.png")
    (tmp_path / "images" / "bad.png").write_bytes(b"\x89PNG\r\n")
    assert call("segment", folder, tmp_path / "images", "--out", tmp_path / "out") == 2
    captured = capsys.readouterr()
    assert "1 of 2 images cannot be segmented" in captured.err and "bad.png" in captured.err
    assert (tmp_path / "out" / "good.png").is_file()


def test_another_kind_of_image_is_told(tmp_path, capsys):
    _, folder = saved(tmp_path / "model", channels=4)
    picture(tmp_path / "a.png")
    assert call("segment", folder, tmp_path / "a.png", "--out", tmp_path / "out") == 2
    told = capsys.readouterr().err
    assert "a.png: has 3 channels, the network takes 4" in told and "masks written" not in told


def test_of_a_runs_models_the_best_on_validation_marks(tmp_path, capsys, monkeypatch):
    picture(tmp_path / "a.png")
    for name, dice in (("one", 0.4), ("two", 0.7)):
        _, folder = saved(tmp_path / "run" / "models" / name)
        write_records(folder / "records.jsonl", [Record(metric="dice", split="val", value=dice)])
    monkeypatch.chdir(tmp_path)
    assert call("segment", "run", "a.png") == 0
    told = " ".join(capsys.readouterr().err.split())
    assert "using run/models/two (highest validation Dice of 2 models)" in told
    assert f"1 masks written to {tmp_path / 'masks'}" in told and (tmp_path / "masks" / "a.png").is_file()


def test_models_that_are_none(tmp_path, capsys):
    picture(tmp_path / "a.png")
    assert call("segment", tmp_path / "none", tmp_path / "a.png", "--out", tmp_path) == 2
    assert "no trained model in" in capsys.readouterr().err
    from ssmlab.models import create_model

    save_model(create_model("medmamba_test", num_classes=2), tmp_path / "classifier", {"classes": []})
    assert call("segment", tmp_path / "classifier", tmp_path / "a.png", "--out", tmp_path) == 2
    assert (
        "is a model of images, a segmentation model is needed; `ssmlab classify` is for classifiers"
        in capsys.readouterr().err
    )


def test_a_checkpoint_of_the_originals_trainer(tmp_path):
    sizes = {
        "patch_size": [16, 16],
        "conv_kernel_sizes": [[3, 3]] * 2,
        "pool_op_kernel_sizes": [[1, 1], [2, 2]],
        "n_conv_per_stage_encoder": [2] * 2,
        "n_conv_per_stage_decoder": [2],
        "UNet_base_num_features": 4,
        "unet_max_num_features": 8,
    }
    network = create_model("umamba_bot", plan=sizes, num_classes=2, seed=0).eval()
    content = {
        "network_weights": network.state_dict(),
        "init_args": {"plans": {"configurations": {"2d": sizes}}, "configuration": "2d"},
        "trainer_name": "nnUNetTrainerUMambaBot",
    }
    torch.save(content, tmp_path / "checkpoint_final.pth")
    pixels = picture(tmp_path / "a.png")
    assert call("segment", tmp_path / "checkpoint_final.pth", tmp_path / "a.png", "--out", tmp_path / "out") == 0
    expected = predict_windows(network, normalised(pixels, (), ()), (16, 16)).argmax(0) * 255
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out" / "a.png")), expected.numpy())


def test_counted_photographs_are_no_channels(tmp_path):
    saved(tmp_path / "model")
    for i in range(3):
        picture(tmp_path / "images" / f"road_{i:04}.png", seed=i)
    again = tmp_path / "images" / "road_0001.png"
    assert call("segment", tmp_path / "model", tmp_path / "images", again, "--out", tmp_path / "out") == 0
    masks = {file.name for file in (tmp_path / "out").iterdir() if "overlay" not in file.name}
    assert masks == {"road_0000.png", "road_0001.png", "road_0002.png"}


def test_images_are_never_overwritten(tmp_path, capsys):
    saved(tmp_path / "model")
    picture(tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()
    assert call("segment", tmp_path / "model", tmp_path / "a.png", "--out", tmp_path) == 2
    assert (tmp_path / "a.png").read_bytes() == before and "would overwrite an image" in capsys.readouterr().err


def test_a_damaged_checkpoint_and_a_strange_device_are_one_line(tmp_path, capsys):
    saved(tmp_path / "model")
    picture(tmp_path / "a.png")
    (tmp_path / "x.pth").write_bytes(b"junk")
    for model, *more in ((tmp_path / "x.pth",), (tmp_path / "model", "--device", "gpu")):
        assert call("segment", model, tmp_path / "a.png", "--out", tmp_path / "out", *more) == 2
    assert "is no file of PyTorch" in capsys.readouterr().err


def test_volumes_are_turned_to_the_directions_of_the_training_and_masks_back(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    saved(tmp_path / "run", dims=3, channels=1, name="residual_unet", directions="RAS")
    voxels = np.random.default_rng(0).normal(0.4, 0.2, (16, 18, 20)).astype(np.float32)
    image = nibabel.Nifti1Image(voxels, np.diag([1.0, 2.0, 3.0, 1.0]))
    turned = image.as_reoriented(np.array([[2.0, -1], [0, 1], [1, -1]]))
    for name, stored in (("a", image), ("b", turned)):
        nibabel.save(stored, tmp_path / f"{name}.nii.gz")
    assert (
        call("segment", tmp_path / "run", tmp_path / "a.nii.gz", tmp_path / "b.nii.gz", "--out", tmp_path / "out") == 0
    )
    masks = [nibabel.load(tmp_path / "out" / f"{name}.nii.gz") for name in "ab"]
    assert masks[1].shape == turned.shape and np.array_equal(masks[1].affine, turned.affine)
    back = nibabel.as_closest_canonical(masks[1])
    np.testing.assert_array_equal(np.asanyarray(back.dataobj), np.asanyarray(masks[0].dataobj))
    assert 0 < np.asanyarray(masks[0].dataobj).mean() < 1


def test_stacks_and_the_numbers_of_the_training(tmp_path):
    classes = ("background", "label 2", "label 300")
    saved(tmp_path / "run", dims=3, channels=1, name="residual_unet", classes=classes, numbers=[0, 2, 300])
    pages = [Image.fromarray(page) for page in np.random.default_rng(0).integers(0, 2, (16, 18, 20)).astype(np.uint8)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    assert call("segment", tmp_path / "run", tmp_path / "a.tif", "--out", tmp_path / "out", "--probabilities") == 0
    said = np.load(tmp_path / "out" / "a_probabilities.npz")["probabilities"].argmax(0)
    with Image.open(tmp_path / "out" / "a.tif") as mask:
        found = []
        for page in range(mask.n_frames):
            mask.seek(page)
            found.append(np.array(mask))
    assert set(np.unique(found)) == {0, 2, 300}
    assert (np.stack(found) == np.array([0, 2, 300])[said]).mean() > 0.99, "but for ties of half precision"

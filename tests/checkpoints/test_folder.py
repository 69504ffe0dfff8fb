"""Models of every kind in folders: saved, loaded, recognised and found, older folders too."""

import json

import pytest
import torch

from ssmlab.checkpoints.files import save_language_model
from ssmlab.checkpoints.find import KINDS, find_folder, find_model, kind_of, model_folders
from ssmlab.checkpoints.folder import load_model, save_model
from ssmlab.core.errors import ModelError
from ssmlab.models import create_model
from ssmlab.models.language.sequence_classifier import SequenceClassifier

PLAN = {
    "patch_size": [16, 16], "features": [4, 8], "kernel_sizes": [[3, 3], [3, 3]], "strides": [[1, 1], [2, 2]],
    "n_conv_encoder": [1, 1], "n_conv_decoder": [1],
}  # fmt: skip
IMAGES = {"image_size": 32, "mean": [0.5], "std": [0.25], "classes": ["ä", "b", "c"]}
NAMES = {"vision": "resnet_test", "segmentation": "umamba_bot", "language": "mamba_lm_test"}
NAMES["vision_language"] = "llava_mamba_test"
NAMES["translation"] = "translation_mamba_encdec_test"
NAMES["sequence_classifier"] = NAMES["language"]
every_kind = pytest.mark.parametrize("kind", KINDS)


def build(kind):
    torch.manual_seed(0)
    if kind == "vision":
        return create_model("resnet_test", num_classes=3, image_size=32).eval()
    if kind == "segmentation":
        return create_model("umamba_bot", plan=PLAN, num_classes=2).eval()
    if kind in ("translation", "vision_language"):
        return create_model(NAMES[kind]).eval()
    language = create_model("mamba_lm_test").eval()
    return SequenceClassifier(language, 3).eval() if kind == "sequence_classifier" else language


def old(folder):
    """What versions without the kind in config.json wrote."""
    config = json.loads((folder / "config.json").read_text())
    config.pop("kind", None)
    (folder / "config.json").write_text(json.dumps(config))


@every_kind
def test_a_model_of_every_kind_is_saved_and_loaded(kind, tmp_path):
    model = build(kind)
    folder = save_model(model, tmp_path / "m", IMAGES)
    assert json.loads((folder / "config.json").read_text())["kind"] == kind_of(folder) == kind
    for _ in range(2):
        loaded, preprocess = load_model(folder, kind)
        assert type(loaded) is type(model) and not loaded.training and preprocess == IMAGES
        assert loaded.registry_name == model.registry_name and loaded.config == model.config
        assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), model.parameters(), strict=True))
        assert find_model(folder).kind == kind and find_model(folder).name == NAMES[kind]
        old(folder)


def test_a_language_model_needs_no_preprocessing(tmp_path):
    assert load_model(save_model(build("language"), tmp_path))[1] == {}
    assert not (tmp_path / "preprocess.json").exists()


def test_another_layout_is_a_language_model_and_has_no_kind(tmp_path):
    save_language_model(build("language"), tmp_path, layout="huggingface")
    assert "kind" not in json.loads((tmp_path / "config.json").read_text())
    assert kind_of(tmp_path) == "language" and find_model(tmp_path).name == ""


@every_kind
def test_a_model_of_another_kind_is_one_line(kind, tmp_path):
    folder = save_model(build(kind), tmp_path, IMAGES)
    wanted = "language" if kind == "vision" else "vision"
    with pytest.raises(ModelError, match="is a .*, a .* is needed; .*`ssmlab") as error:
        load_model(folder, wanted)
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    for kind in ("vision", "language"):
        save_model(build(kind), folder / "models" / kind, IMAGES)
    return folder


def test_the_models_of_a_run(run):
    language, vision = model_folders(run)
    assert model_folders(vision) == model_folders(vision / "model.safetensors") == [vision]
    assert find_folder(run, ("vision",)) == (vision, "") and find_folder(run, ("language",)) == (language, "")
    with pytest.raises(ModelError, match="has 2 models; name one: .*language, .*vision"):
        find_folder(run)
    with pytest.raises(
        ModelError, match="none of the 2 models in .* is of the kind segmentation; they are language, v"
    ):
        find_folder(run, ("segmentation",))
    with pytest.raises(ModelError, match=r"no trained model in .*, it has no config\.json"):
        find_folder(run / "models")


def test_what_a_name_or_a_path_means(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_model(run, kinds=("vision",)).folder == run / "models" / "vision"
    assert find_model(run.name, runs=run.parent, kinds=("language",)).kind == "language"
    for name, kind in (("vim_tiny", "vision"), ("timm/resnet18", "vision"), ("mamba_lm", "language")):
        found = find_model(name)
        assert (found.kind, found.name, found.folder) == (kind, name, None)
    assert find_model("somebody/mamba").kind == "language"
    with pytest.raises(ModelError, match="there is no model 'vim_tinny'; did you mean vim_tiny"):
        find_model("vim_tinny")
    (tmp_path / "vim_tiny").mkdir()
    with pytest.raises(ModelError, match="no trained model in vim_tiny"):
        find_model("vim_tiny")

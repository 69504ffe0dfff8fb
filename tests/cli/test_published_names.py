"""Commands and recipes with published weights by name, from a server on this machine."""

import json
import logging

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from cli.calling import call
from hub import at_home, closed_port, serving
from ssmlab.checkpoints.files import load_language_model, save_language_model
from ssmlab.core.errors import ModelError, RecipeError
from ssmlab.experiments.run import run_recipe
from ssmlab.models import catalogue as table
from ssmlab.models import create_model
from ssmlab.models.download import local_folder
from ssmlab.models.vision.mambavision import CONFIGS
from ssmlab.tasks.recipe import load_recipe

FREE = table.Licence(title="MIT", address="https://example.org/mit", accept=False)
BOUND = table.Licence(title="not for commercial use", address="https://example.org/nc", accept=True)
WORDS = "a b c d e f g h"


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    """Models in their originals' layouts: files by (repository, name); and the models."""
    folder = tmp_path_factory.mktemp("authors")
    torch.manual_seed(0)
    language = create_model("mamba_lm_test", vocab_size=256).eval()
    save_language_model(language, folder / "mamba", layout="state-spaces")
    save_language_model(language, folder / "falcon", layout="huggingface")
    words = Tokenizer(WordLevel({word: 97 + i for i, word in enumerate(WORDS.split())}, unk_token="a"))
    words.pre_tokenizer = Whitespace()
    (folder / "words").mkdir()
    words.save(str(folder / "words" / "tokenizer.json"))
    words.save(str(folder / "falcon" / "tokenizer.json"))
    files = {
        (f"authors/{path.parent.name}", path.name): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }
    vision = {}
    for name, classes in (("mambavision_test", 1000), ("vim_test", 10), ("vmamba_test", 10)):
        vision[name] = create_model(name, num_classes=classes).eval()
        files[f"authors/{name}", "model.safetensors"] = save(vision[name].state_dict())
    return files, language, vision


@pytest.fixture
def hub(tmp_path, monkeypatch, content):
    with serving() as server, at_home(tmp_path, server.address, monkeypatch):
        files, server.language, server.vision = content
        server.files |= files
        monkeypatch.setitem(table.CLASSES, "ten", 10)
        row = {"licence": FREE, "source": "a test"}
        whole = row | {"file": "model.safetensors"}
        rows = [
            table.PublishedWeights(
                **row, models=("mamba_lm_test",), repository="authors/mamba", file="pytorch_model.bin",
                tokenizer="authors/words",
            ),
            table.PublishedWeights(
                **whole | {"licence": BOUND}, models=("mambavision_test",), repository="authors/mambavision_test",
                classes="imagenet-1k", size="1 MB",
            ),
            *(
                table.PublishedWeights(**whole, models=(name,), repository=f"authors/{name}", classes="ten")
                for name in ("vim_test", "vmamba_test")
            ),
        ]  # fmt: skip
        monkeypatch.setattr(table, "catalogue", lambda: tuple(rows))
        monkeypatch.chdir(tmp_path)
        yield server


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (70, 90, 3), dtype=np.uint8)).save(path)
    return path


def same(model, other):
    return all(torch.equal(value, other.state_dict()[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", ["authors/mamba", "authors/falcon", "mamba_lm_test"])
def test_a_language_model_by_name(name, hub):
    folder = local_folder(name)
    assert {"config.json", "tokenizer.json"} <= {path.name for path in folder.iterdir()}
    assert same(load_language_model(name), hub.language)
    before = len([asked for asked in hub.asked if asked[0] == "GET"])
    assert local_folder(name) == folder
    assert len([asked for asked in hub.asked if asked[0] == "GET"]) == before, "nothing is fetched twice"


def test_weights_in_parts(hub):
    state = {key: value for key, value in hub.language.state_dict().items() if key != "lm_head.weight"}
    names = [f"model-{i}-of-2.safetensors" for i in (1, 2)]
    half = len(state) // 2
    parts = dict(zip(names, (dict(list(state.items())[:half]), dict(list(state.items())[half:]))))
    index = {"weight_map": {key: name for name, part in parts.items() for key in part}}
    config = {"model": "mamba_lm_test", "config": {"vocab_size": 256}}
    for repository in ("authors/half", "authors/parts"):
        hub.files[repository, "config.json"] = json.dumps(config).encode()
        hub.files[repository, "model.safetensors.index.json"] = json.dumps(index).encode()
        hub.files[repository, names[0]] = save(parts[names[0]])
    with pytest.raises(ModelError, match=rf"names {names[1]}, which are not there"):
        load_language_model("authors/half")
    hub.files["authors/parts", names[1]] = save(parts[names[1]])
    assert same(load_language_model("authors/parts"), hub.language)


def test_an_index_leads_nowhere_else(hub):
    hub.files["authors/index", "config.json"] = b"{}"
    hub.files["authors/index", "model.safetensors.index.json"] = b'{"weight_map": {"a": "../../secret"}}'
    with pytest.raises(ModelError, match="names files outside"):
        local_folder("authors/index")


def test_a_repository_that_is_no_language_model(hub):
    with pytest.raises(ModelError, match=r"authors/words has no config\.json"):
        local_folder("authors/words")
    hub.files["authors/words", "config.json"] = b"{}"
    with pytest.raises(ModelError, match="has no weights"):
        local_folder("authors/words")
    with pytest.raises(ModelError, match="is a model of images"):
        local_folder("authors/mambavision_test")
    with pytest.raises(ModelError, match="there is no folder nowhere"):
        local_folder("nowhere")


def test_offline_a_language_model_comes_from_the_cache(hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE is set"):
        local_folder("authors/mamba")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    folder = local_folder("authors/mamba")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    del hub.asked[:]
    assert local_folder("authors/mamba") == folder and (folder / "tokenizer.json").is_file()
    assert not hub.asked


@pytest.mark.parametrize("name", ["authors/mamba", "authors/falcon"])
def test_when_the_network_is_gone_the_cache_is_enough(name, hub, monkeypatch):
    folder = local_folder(name)
    with serving() as gone:
        pass
    monkeypatch.setenv("HF_ENDPOINT", gone.address)
    assert local_folder(name) == folder


@pytest.mark.parametrize("name", ["authors/mamba", "authors/nothing", "mamba_lm_test"])
@pytest.mark.parametrize("command", [["generate", "--prompt", "a"], ["convert", "x"], ["compress"]])
def test_without_a_network_every_file_is_named_at_once(command, name, hub, monkeypatch, capsys, tmp_path):
    nowhere, waits = closed_port(), []
    monkeypatch.setenv("HF_ENDPOINT", nowhere)
    monkeypatch.setattr("time.sleep", waits.append)
    assert call(command[0], name, *command[1:], *(["--pretrained"] if "/" not in name else [])) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    repository = "authors/mamba" if name == "mamba_lm_test" else name
    assert said.startswith(f"ssmlab: {name} cannot be downloaded (") and "Connection refused" in said
    assert said.endswith(f"put them into {tmp_path / 'XDG_CACHE_HOME' / 'ssmlab' / 'weights' / repository}")
    if name == "authors/nothing":  # not in the table
        assert f"of {nowhere}/authors/nothing/tree/main on another machine" in said
        wanted = "config.json model.safetensors pytorch_model.bin .index.json tokenizer.json tokenizer_config.json"
    else:
        page = f"{nowhere}/authors/mamba/resolve/main"
        wanted = f"{page}/config.json {page}/pytorch_model.bin {nowhere}/authors/words/resolve/main/tokenizer.json"
    assert not [file for file in wanted.split() if file not in said]
    assert not waits, "the client alone tries five times more, for 23 s"


def test_the_licence_of_any_repository_is_on_its_page(hub, caplog):
    table.say_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        local_folder("authors/falcon")
        local_folder("authors/mamba")
    assert [record.message for record in caplog.records if "licence" in record.message] == [
        f"the licence of authors/falcon is on its page, {hub.address}/authors/falcon"
    ]


@pytest.mark.parametrize(
    ("name", "sources"),
    [("authors/falcon", {"authors/falcon"}), ("authors/mamba", {"authors/mamba", "authors/words"})],
)
def test_files_put_by_hand_need_no_network(name, sources, hub, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    place = tmp_path / "XDG_CACHE_HOME" / "ssmlab" / "weights" / name
    with pytest.raises(ModelError) as error:
        local_folder(name)
    assert str(error.value).endswith(f"put them into {place}")
    place.mkdir(parents=True)
    for (repository, file), found in hub.files.items():
        if repository in sources:
            (place / file).write_bytes(found)
    assert same(load_language_model(name), hub.language)
    assert call("generate", name, "--prompt", "a b", "--max-tokens", "3") == 0
    assert set(capsys.readouterr().out.split()) <= set(WORDS.split())
    assert not hub.asked


def test_a_local_folder_of_the_same_name_wins(hub, tmp_path, caplog):
    mine = create_model("mamba_lm_test", vocab_size=256)
    save_language_model(mine, tmp_path / "authors" / "mamba")
    table.say_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert same(load_language_model("authors/mamba"), mine)
    assert "authors/mamba is a folder or file here; it is taken" in caplog.text
    assert not hub.asked


def test_generate_and_convert(hub, capsys, tmp_path):
    assert call("generate", "authors/mamba", "-p", "a b c", "--max-tokens", "4") == 0
    first = capsys.readouterr().out
    assert call("generate", "mamba_lm_test", "--pretrained", "-p", "a b c", "--max-tokens", "4") == 0
    assert capsys.readouterr().out == first
    assert call("generate", "authors/nothing", "-p", "a") == 2
    assert "there is no repository authors/nothing" in capsys.readouterr().err
    assert call("generate", "mamba_lm_test", "-p", "a", "--max-tokens", "1") == 0
    assert "its weights are random" in capsys.readouterr().err
    assert call("convert", "authors/mamba", tmp_path / "out") == 0
    assert same(load_language_model(tmp_path / "out"), hub.language)
    assert (tmp_path / "out" / "tokenizer.json").is_file()


def test_classify_prints_classes_of_imagenet(hub, capsys, picture):
    assert call("classify", "mambavision_test", picture) == 2
    said = capsys.readouterr().err
    assert "not for commercial use" in said and "--accept-licence" in said and said.count("\n") == 1
    assert call("classify", "mambavision_test", picture, "--accept-licence", "--top-k", "2") == 0
    line = capsys.readouterr().out
    assert line.startswith(f"{picture}: ") and line.count("%") == 2
    assert any(name in line for name in table.class_names("imagenet-1k"))
    assert call("classify", "authors/mambavision_test", picture) == 0, "the licence is remembered"
    assert call("classify", "mamba_lm_test", picture) == 2
    assert "is a language model" in capsys.readouterr().err
    assert call("classify", "vim_tets", picture) == 2


@pytest.mark.parametrize("crop", [1.0, 0.5])
def test_classify_prepares_pictures_as_the_weights_want_them(crop, hub, picture, tmp_path, monkeypatch):
    monkeypatch.setitem(CONFIGS["mambavision_test"].values, "crop_pct", crop)
    assert call("classify", "mambavision_test", picture, "--accept-licence", "--csv", "out.csv") == 0
    found = np.loadtxt((tmp_path / "out.csv").read_text().splitlines()[1].split(",")[-1000:])
    network = hub.vision["mambavision_test"]
    side = network.default_cfg["input_size"][-1]
    whole, start = round(side / crop), (round(side / crop) - side) // 2
    pixels = Image.open(picture).resize((whole, whole), Image.Resampling.BILINEAR, box=(10, 0, 80, 70))
    pixels = np.asarray(pixels)[start : start + side, start : start + side].copy()
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        expected = network((torch.from_numpy(pixels).permute(2, 0, 1) / 255 - mean)[None] / std).softmax(-1)[0]
    np.testing.assert_allclose(found, expected.numpy(), rtol=2e-5)


def test_what_outputs_of_other_classes_mean_is_not_guessed(hub, capsys, picture, monkeypatch):
    monkeypatch.setitem(table.CLASSES, "ten", 11)
    assert call("classify", "vim_test", picture) == 2
    assert "(10,) in the file, (11,) in the model" in capsys.readouterr().err


def test_adapt(hub, capsys):
    assert call("adapt", "check", "authors/mamba", "--method", "conv") == 0
    assert call("adapt", "methods", "mamba_lm_test", "--pretrained") == 0
    assert call("adapt", "check", "authors/vim_test", "--image-size", 32) == 0
    assert {path for _, path, _ in hub.asked} >= {"/authors/vim_test/resolve/main/model.safetensors"}
    assert call("adapt", "check", "vim_test", "--image-size", 32) == 0


def test_compare_explain_and_compress(hub, picture, capsys, tmp_path):
    quick = ["--repeats", "1", "--no-train", "--batch", "1"]
    assert call("compare", "vim_test", "authors/vmamba_test", "--pretrained", *quick, "--output", tmp_path / "c") == 0
    rows = (tmp_path / "c" / "report.html").read_text()
    assert rows.count("model.safetensors") >= 2, "the weights are named, not random"
    explain = ["--steps", "0", "--no-scores", "--output"]
    assert call("explain", "mambavision_test", picture, "--pretrained", "--accept-licence", *explain, "e") == 0
    assert "random weights" not in capsys.readouterr().err
    rank = ["--rank", "2", *quick]
    assert call("compress", "vmamba_test", "--pretrained", *rank, "--output", tmp_path / "v") == 0
    assert call("compress", "authors/mamba", *rank, "--length", "16") == 0
    assert (tmp_path / "runs" / "compress-authors-mamba" / "report.html").is_file()
    assert call("compress", "mamba_lm_test", "--pretrained", *rank, "--length", "16", "--output", tmp_path / "l") == 0


def test_the_card_says_where_weights_are(hub, capsys):
    assert call("models", "mambavision_test", "--depth", "1") == 0
    said = capsys.readouterr().out
    assert f"weights: {hub.address}/authors/mambavision_test/resolve/main/model.safetensors, 1 MB (a test)" in said
    assert "licence of the weights: not for commercial use; to be accepted once, with --accept-licence" in said
    assert call("models", "medmamba_test", "--depth", "1") == 0
    assert "weights:" not in capsys.readouterr().out
    assert not hub.asked


def test_a_recipe_of_classification(hub, capsys, tmp_path):
    wanted = ["--smoke", "models.0.pretrained=true", "models.1.pretrained=true"]
    assert call("run", "classification/cifar100_mambavision_vs_vit", *wanted) == 2
    assert "--accept-licence" in capsys.readouterr().err
    assert not hub.asked
    assert call("run", "classification/cifar100_mambavision_vs_vit", *wanted, "--accept-licence") == 0
    assert hub.fetched("model.safetensors") == [None, None]
    models = tmp_path / "runs" / "cifar100_mambavision_vs_vit-smoke" / "models"
    assert len(list(models.glob("*/model.safetensors"))) == 2


def test_a_sweep_asks_for_the_licence_first(hub, capsys, monkeypatch):
    def stop(*_):
        raise RecipeError("far enough")

    monkeypatch.setattr("ssmlab.experiments.sweep.load_data", stop)
    wanted = ["models.0.pretrained=true", "training.learning_rate=1e-3,2e-3", "--smoke"]
    assert call("sweep", "classification/cifar100_mambavision_vs_vit", *wanted) == 2
    assert "--accept-licence" in capsys.readouterr().err and not hub.asked
    assert call("sweep", "classification/cifar100_mambavision_vs_vit", *wanted, "--accept-licence") == 2
    assert "far enough" in capsys.readouterr().err
    assert hub.fetched("model.safetensors") == [None]


@pytest.mark.slow
def test_a_recipe_of_robustness(hub, monkeypatch):
    monkeypatch.setattr("ssmlab.reports.html.write_report", lambda folder, _: folder / "report.html")
    loaded = load_recipe(
        "robustness/imagenet_21",
        ["models.0.pretrained=true", "models.1.pretrained=true", "evaluation.robustness.per_class=1"],
        smoke=True,
    )
    folder = run_recipe(loaded, output="runs")
    stored = create_model("vmamba_test", num_classes=10, weights=folder / "models/vmamba_base/model.safetensors")
    assert same(stored, hub.vision["vmamba_test"])
    changes = ["models.0.name=mambavision_test", "models.0.pretrained=true"]
    loaded = load_recipe("robustness/imagenet_21", changes, smoke=True)
    with pytest.raises(RecipeError, match="not for the 10 classes"):
        run_recipe(loaded, output="runs", overwrite=True, accept_licence=True)


@pytest.mark.parametrize("how", ["model=authors/mamba", "models.0.weights=authors/mamba", "models.0.pretrained=true"])
def test_a_recipe_of_language(how, hub, monkeypatch):
    monkeypatch.setattr("ssmlab.reports.html.write_report", lambda folder, _: folder / "report.html")
    changes = ["models=[{name='mamba_lm_test'}]", "training.epochs=1", "training.learning_rate=1e-9", how]
    loaded = load_recipe("language/finetune", changes, smoke=True)
    folder = run_recipe(loaded, output="runs")
    about = json.loads((folder / "models" / "mamba_lm_test" / "preprocess.json").read_text())
    assert about["tokenizer"].endswith("tokenizer.json"), "the published tokenizer, not bytes"
    found = load_language_model(folder / "models" / "mamba_lm_test").state_dict()
    for key, value in hub.language.state_dict().items():
        torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-5)


def test_recipes_refuse_what_is_not_published(hub):
    for change, words in (
        ("{name='mamba2_lm_test',pretrained=true}", "nothing is published for mamba2_lm_test"),
        ("{name='mamba_lm_test',pretrained=true,weights='authors/mamba'}", "give one of them"),
        ("{name='mamba_lm_test',weights='nowhere'}", "no such folder"),
    ):
        with pytest.raises(RecipeError, match=words):
            load_recipe("language/finetune", [f"models=[{change}]"], smoke=True)

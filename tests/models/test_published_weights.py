"""Published weights by name: the table, licences, and downloads from a server on this machine."""

import argparse
import io
import logging
import re
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save

from hub import at_home, closed_port, serving, silent
from ssmlab.core.errors import ModelError
from ssmlab.models import MODELS, create_model, list_models
from ssmlab.models import catalogue as table
from ssmlab.models.download import weights_file
from ssmlab.models.registry import ORIGINALS, original

FREE = table.Licence(title="MIT", address="https://example.org/mit", accept=False)
BOUND = table.Licence(title="not for commercial use", address="https://example.org/nc", accept=True)
CLASSES = 5


def saved(content):
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def as_original(name, model):
    """A test size's weights as the authors of its family publish theirs."""
    state = model.state_dict()
    if name == "mambavision_test":  # on the hub, inside a classifier
        return "model.safetensors", save({f"model.{key}": value for key, value in state.items()})
    return f"{name}.pth", saved({"model": state, "epoch": 3, "args": argparse.Namespace(lr=1e-3, output_dir="x")})


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The server, a user's folders, and a table of test sizes whose weights it has."""
    with serving() as server, at_home(tmp_path, server.address, monkeypatch):
        monkeypatch.setitem(table.CLASSES, "five", CLASSES)
        server.models, rows = {}, []
        for name, licence in (("mambavision_test", BOUND), ("vim_test", FREE), ("vmamba_test", FREE)):
            torch.manual_seed(len(name))
            model = create_model(name, num_classes=CLASSES).eval()
            file, content = as_original(name, model)
            release = "" if name != "vmamba_test" else f"{server.address}/VMamba/releases/download/%23v2/{file}"
            row = {"models": (name, f"{name}_too"), "repository": f"authors/{name}", "file": file, "licence": licence}
            rows.append(table.PublishedWeights(**row, source="a test", classes="five", release=release))
            server.models[name] = model
            server.files[row["repository"], file] = content
            server.releases[f"/VMamba/releases/download/%23v2/{file}"] = content
        server.rows = {row.name: row for row in rows}
        monkeypatch.setattr(table, "catalogue", lambda: tuple(server.rows.values()))
        yield server


def same(model, other):
    return all(torch.equal(value, other.state_dict()[key]) for key, value in model.state_dict().items())


def refused(name, **options):
    """The one line about a model that cannot be had."""
    with pytest.raises(ModelError) as error:
        create_model(name, pretrained=True, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


ON_THE_HUB, RELEASED = "vim_test", "vmamba_test"
both = pytest.mark.parametrize("name", [ON_THE_HUB, RELEASED])


@pytest.mark.parametrize("name", ["mambavision_test", ON_THE_HUB, RELEASED])
def test_weights_by_name(name, hub):
    file = hub.rows[name].file
    model = create_model(name, pretrained=True, accept_licence=True)
    assert model.num_classes == CLASSES
    assert same(model, hub.models[name])
    again = timm.create_model(name, pretrained=True, num_classes=CLASSES)
    assert same(again, hub.models[name])
    assert hub.fetched(file) == [None], "once, then from the cache"
    other = create_model(name, num_classes=2, pretrained=True)
    assert other.num_classes == 2


def test_a_name_without_published_weights(hub):
    assert "download them from" in refused("medmamba_test", num_classes=2)
    with pytest.raises(ModelError, match="num_classes is missing"):
        create_model("vim_test")
    with pytest.raises(ModelError, match="unknown model 'vim_tets'; did you mean vim_test"):
        create_model("vim_tets", pretrained=True)


@both
def test_what_is_damaged_is_deleted(name, hub):
    row = hub.rows[name]
    good = hub.files[row.repository, row.file]
    bad = good[:2000] + bytes([good[2000] ^ 1]) + good[2001:]
    hub.etags[row.file] = table_hash(good)
    hub.files[row.repository, row.file] = hub.releases[f"/VMamba/releases/download/%23v2/{row.file}"] = bad
    assert re.fullmatch(r"what came from \S+ is damaged and was deleted; run the same again", refused(name))
    assert refused(name), "it is not taken from the cache"
    hub.files[row.repository, row.file] = hub.releases[f"/VMamba/releases/download/%23v2/{row.file}"] = good
    assert same(create_model(name, pretrained=True), hub.models[name])


def table_hash(content):
    from hashlib import sha256

    return sha256(content).hexdigest()


@both
def test_a_hash_of_the_table_is_compared(name, hub):
    hub.rows[name] = replace(hub.rows[name], sha256="0" * 64)
    assert "damaged" in refused(name)
    row = replace(hub.rows[name], sha256=table_hash(hub.files[f"authors/{name}", hub.rows[name].file]))
    hub.rows[name] = row
    assert same(create_model(name, pretrained=True), hub.models[name])
    assert len(hub.fetched(row.file)) == 2, "the first was deleted"


def test_a_file_put_by_hand_that_is_another_is_kept(hub):
    row = hub.rows[ON_THE_HUB] = replace(hub.rows[ON_THE_HUB], sha256="0" * 64)
    place = table.hand_placed(row.repository, row.file)
    place.parent.mkdir(parents=True)
    place.write_bytes(b"mine")
    assert f"{place} is not the file of {row.address}" in refused(ON_THE_HUB)
    assert place.read_bytes() == b"mine"


@both
def test_a_cut_download_goes_on(name, hub):
    file = hub.rows[name].file
    hub.cut[file] = 1000
    assert same(create_model(name, pretrained=True), hub.models[name])
    assert hub.fetched(file) == [None, "bytes=1000-"]


@both
def test_a_stopped_download_goes_on_in_the_next_call(name, hub):
    file = hub.rows[name].file
    hub.cut[file] = 1000
    hub.broken.add(file)
    assert "cannot be downloaded" in refused(name)
    hub.broken.clear()
    del hub.asked[:]
    assert same(create_model(name, pretrained=True), hub.models[name])
    assert hub.fetched(file) == ["bytes=1000-"]


def test_a_whole_release_that_was_not_checked_is_fetched_anew(hub, tmp_path):
    row = hub.rows[RELEASED]
    partial = tmp_path / "TORCH_HOME" / "hub" / "checkpoints" / f"{row.file}.incomplete"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(b"x" * len(hub.files[row.repository, row.file]))
    assert same(create_model(RELEASED, pretrained=True), hub.models[RELEASED])
    assert not partial.exists()


def test_what_is_not_there(hub):
    row = hub.rows[ON_THE_HUB]
    del hub.files[row.repository, row.file]
    assert "there is no repository authors/vim_test" in refused(ON_THE_HUB)
    hub.files[row.repository, "README.md"] = b"moved"
    assert f"{row.address} is not there (any more)" in refused(ON_THE_HUB)
    hub.releases.clear()
    assert f"{hub.rows[RELEASED].release} is not there (any more)" in refused(RELEASED)


@both
def test_without_a_network_the_place_for_the_file_is_named(name, hub, monkeypatch, tmp_path):
    nowhere = closed_port()
    row = hub.rows[name]
    if row.release:
        hub.rows[name] = replace(row, release=row.release.replace(hub.address, nowhere))
    monkeypatch.setenv("HF_ENDPOINT", nowhere)
    waits = []
    monkeypatch.setattr("time.sleep", waits.append)
    said = refused(name)
    assert not waits, "the client alone tries five times more, for 23 s"
    assert hub.rows[name].address in said and nowhere in said
    place = tmp_path / "XDG_CACHE_HOME" / "ssmlab" / "weights" / "authors" / name / row.file
    assert said.endswith(f"put it at {place}")
    place.parent.mkdir(parents=True)
    place.write_bytes(hub.files[row.repository, row.file])
    assert same(create_model(name, pretrained=True), hub.models[name])


@both
def test_a_server_that_keeps_silent_is_given_up(name, hub, monkeypatch):
    with silent() as address:
        row = hub.rows[name]
        if row.release:
            hub.rows[name] = replace(row, release=row.release.replace(hub.address, address))
        monkeypatch.setenv("HF_ENDPOINT", address)
        monkeypatch.setattr("ssmlab.models.network.PATIENCE", 0.05)
        assert "no answer within 0.05 s; HF_HUB_ETAG_TIMEOUT=30 waits for 30" in refused(name)
        monkeypatch.setenv("HF_HUB_ETAG_TIMEOUT", "0.1")
        assert "no answer within 0.1 s" in refused(name)


def test_whether_a_server_answers_is_seen_once_and_through_the_users_proxy(hub, monkeypatch):
    from huggingface_hub.utils import close_session

    from ssmlab.models.network import answer, check_hub

    monkeypatch.setattr("ssmlab.models.network._ANSWERED", set())
    for name in ("config.json", "model.safetensors"):
        check_hub("authors/none", table.hub_address("authors/none", name))
    assert [asked[:2] for asked in hub.asked] == [("HEAD", "/authors/none/resolve/main/config.json")]
    monkeypatch.setenv("HTTP_PROXY", hub.address)
    close_session()  # a client reads the environment when it is made
    try:
        assert answer("http://models.invalid/file") == 404
        assert hub.asked[-1][1] == "http://models.invalid/file"
    finally:
        close_session()


@both
def test_offline_the_cache_is_enough(name, hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in refused(name)
    assert not hub.asked
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    create_model(name, pretrained=True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    del hub.asked[:]
    assert same(create_model(name, pretrained=True), hub.models[name])
    assert not hub.asked


def test_a_licence_is_accepted_once(hub, caplog, tmp_path):
    said = refused("mambavision_test")
    for words in ("not for commercial use", BOUND.address, "--accept-licence", "accept_licence=True"):
        assert words in said
    assert not hub.asked, "nothing is fetched before"
    with caplog.at_level(logging.WARNING):
        timm.create_model("mambavision_test", pretrained=True, num_classes=CLASSES, accept_licence=True)
    assert "not for commercial use accepted for mambavision_test" in caplog.text
    assert create_model("mambavision_test", pretrained=True).num_classes == CLASSES
    (tmp_path / "XDG_CONFIG_HOME" / "ssmlab" / "licences.json").write_text("damaged")
    assert "--accept-licence" in refused("mambavision_test")


def test_weights_of_timm_by_name(hub, monkeypatch):
    hub.files["timm/resnet18.a1_in1k", "model.safetensors"] = b"content"
    assert weights_file("timm/resnet18").read_bytes() == b"content"
    with pytest.raises(ModelError, match=r"no repository timm/test_vit"):
        weights_file("timm/test_vit")
    hub.files["timm/test_vit.r160_in1k", "README.md"] = b"moved"
    with pytest.raises(ModelError, match="give weights=FILE"):
        weights_file("timm/test_vit")
    with pytest.raises(ModelError, match="did you mean"):
        weights_file("timm/resnet_18")


def test_a_trainers_arguments_are_passed_over_and_other_objects_refused(tmp_path):
    model = create_model("vim_test", num_classes=2)
    content = {"model": model.state_dict(), "args": argparse.Namespace(a=1, b=[argparse.Namespace()])}
    content["best"] = np.float64(81.5)
    torch.save(content, tmp_path / "good.pth")
    assert same(create_model("vim_test", num_classes=2, weights=tmp_path / "good.pth"), model)
    torch.save(content | {"more": print}, tmp_path / "bad.pth")
    with pytest.raises(ModelError, match="holds more than tensors"):
        create_model("vim_test", num_classes=2, weights=tmp_path / "bad.pth")


def test_the_table():
    rows = table.catalogue()
    names = [name for row in rows for name in row.models]
    assert len(names) == len(set(names))
    assert len({(row.repository, row.file) for row in rows}) == len(rows)
    assert {row.licence.title for row in rows} > {"Apache-2.0", "MIT"}
    for row in rows:
        assert row.source and row.file and re.fullmatch(r"[\w.-]+/[\w.-]+", row.repository)
        assert row.address.startswith("https://") and row.address.endswith(f"/{row.file}")
        assert re.fullmatch(r"|[0-9a-f]{64}", row.sha256) and re.fullmatch(r"|[\d.]+ [MG]B", row.size)
        for name in row.models:
            entry = MODELS[name]
            assert bool(row.classes) == (entry.kind == "vision")
            known = {"mamba_lm": "mamba1", "mamba2_lm": "mamba2"}.get(entry.family, entry.family)
            assert known in ORIGINALS
            assert original(known).licence.split()[0] in row.licence.title
            assert table.find_weights(name) is row
        assert bool(row.classes) or row.tokenizer
    sizes = [n for n in MODELS if MODELS[n].family in ("mambavision", "vim", "vmamba") and not n.endswith("_test")]
    assert set(sizes) <= set(names)
    assert {f"mamba_lm_{size}" for size in ("130m", "370m", "790m", "1.4b", "2.8b")} <= set(names)
    assert {n for n in list_models("language") if n.startswith("mamba2") and n[-1] in "mb" and "_lm_" in n} <= set(
        names
    )


def test_what_is_a_repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    assert table.is_repository("tiiuae/falcon-mamba-7b") and table.is_repository("state-spaces/mamba-130m")
    for text in ("timm/resnet18", "runs/mine", "a/b/c", "mamba_lm_130m", "/tmp/x", "../x", "~/x", "a b/c"):
        assert not table.is_repository(text), text
    (tmp_path / "state-spaces" / "mamba-130m").mkdir(parents=True)
    assert table.published("state-spaces/mamba-130m") is None
    assert len(table.class_names("imagenet-1k")) == 1000

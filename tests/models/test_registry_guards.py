"""A family of the table must be whole: its file's names, timm's entry, weights' rules, golden cases."""

from importlib import import_module
from pathlib import Path

import pytest
import timm

import parity
from ssmlab.models import MODELS
from ssmlab.models.entry import FOLDERS, KINDS
from ssmlab.models.registry import FAMILIES, ORIGINALS, original
from ssmlab.models.timm_entry import register

CASES = Path(parity.__file__).parent / "parity_data"
# made here, the first on backbones of timm; those of `translation` but one are put together from the others
WITHOUT_ORIGINAL = {"resnet_mamba", "s4d_lm", "transformer_lm"} | {
    family.name for family in FAMILIES if family.kind == "translation" and family.name != "translation_transformer"
}
LIVE = {"marian", "llava_hf"}  # compared with transformers itself: test_marian.py, test_llava_originals.py
TIMMS_OWN = {"resnet18", "resnet50"}
every_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)


def test_no_name_is_there_twice():
    assert len(MODELS) == sum(len(family.titles) for family in FAMILIES)
    assert len(ORIGINALS) == sum(len(family.originals) for family in FAMILIES)
    assert {family.kind for family in FAMILIES} == set(KINDS)


def test_every_file_and_the_table_have_the_same_names():
    for module in {entry.module for entry in MODELS.values()}:
        names = {name for name, entry in MODELS.items() if entry.module == module}
        assert set(import_module(f"ssmlab.models.{module}").CONFIGS) == names, module


def test_every_file_with_a_table_is_in_the_registry():
    package = Path(import_module("ssmlab.models").__file__).parent
    announced = {entry.module for entry in MODELS.values()}
    there = {
        f"{folder}.{file.stem}"
        for folder in FOLDERS.values()
        for file in (package / folder).glob("*.py")
        if "\nCONFIGS" in file.read_text("utf-8")
    }
    assert there == announced


@every_family
def test_timm_has_its_models(family):
    register()
    for name in family.titles:
        assert timm.is_model(name) == (family.kind == "vision"), name
        if family.kind == "vision" and name not in TIMMS_OWN:
            assert timm.model_entrypoint(name).__module__ == "ssmlab.models.timm_entry"


@every_family
def test_weights_of_its_originals_are_read_and_compared(family):
    assert bool(family.originals) == (family.name not in WITHOUT_ORIGINAL), "name its rules in the table"
    assert all(original(name).licence and original(name).build for name in family.originals)
    compared = [
        name
        for name in family.originals
        if name in LIVE or (name in parity.MODEL_RUNNERS and any((CASES / name).glob("*.json")))
    ]
    assert compared or family.name in WITHOUT_ORIGINAL, "add golden cases to tests/parity_data, a runner to parity.py"

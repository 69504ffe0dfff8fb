"""Whole models and first calls, as `ssmlab bench ops --device cuda` times them, in tiny forms on the CPU."""

import math

import pytest
import torch

from ssmlab.models import list_models
from ssmlab.profiling.bench import cold, language, results, vision


def nothing():
    pass


def test_tiny_language_models():
    found = [r for part in language.language(language.QUICK, "cpu", 0.0, nothing) for r in part]
    measured = [r for r in found if r.values]
    names = {name for plan in language.QUICK for name in plan.models}
    assert {r.name for r in measured if r.suite == "training"} == names
    assert {r.name for r in measured if r.suite == "decoding"} == names
    assert {r.reason for r in found if not r.values} == {"graphs are recorded on a GPU"}
    assert all(v > 0 for r in measured for v in r.values)
    assert {r.unit for r in found} == {"tokens/s"}


def test_a_model_that_does_not_fit_is_told(monkeypatch):
    monkeypatch.setattr(results, "room", lambda device: 1000)
    found = [r for part in language.language(language.QUICK[1:], "cpu", 0.0, nothing) for r in part]
    assert [r.values for r in found] == [(), ()]
    assert all(r.reason.startswith("needs about 0.0 GiB") for r in found)


def test_running_out_of_memory_is_told():
    def fails():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")

    assert results.attempt(fails, 0, "cpu") == "out of memory: CUDA out of memory"


def test_a_step_that_differs_from_the_whole_is_not_timed(monkeypatch):
    monkeypatch.setattr(language, "step_error", lambda *_: math.nan)
    parts = language.language(language.QUICK[1:], "cpu", 0.0, nothing)
    found = [r for part in parts for r in part if r.suite == "decoding"]
    assert [r.values for r in found] == [()] and "differs from the whole text by nan" in found[0].reason


def test_a_training_step_changes_the_weights():
    model = language._made("mamba_lm_test", "float32", "cpu").train()
    before = [p.detach().clone() for p in model.parameters()]
    step = language.training_step(model, language._ids(model, 2, 9, "cpu"))
    first = step()
    assert all(not torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    assert step() < first


def test_tiny_vision_models():
    found = [r for part in vision.vision(vision.QUICK, "cpu", 0.0, nothing) for r in part]
    assert {r.what for r in found} == {
        f"{b} images of 32 x 32, {dtype}" for b in (1, 2) for dtype in ("bfloat16", "float32")
    }
    assert {r.name for r in found if r.values} == set(vision.QUICK.models), [r.reason for r in found]


def test_a_vision_model_that_is_wrong_is_not_timed(monkeypatch):
    monkeypatch.setattr(vision, "TOLERANCE", {"float32": -1.0})
    gallery = vision.Gallery(("vim_test",), 32, (1,), ("float32",))
    (found,) = [r for part in vision.vision(gallery, "cpu", 0.0, nothing) for r in part]
    assert not found.values and "off, limit -1" in found.reason


def test_the_full_lists_name_models_that_there_are():
    assert {name for plan in language.FULL for name in plan.models} <= set(list_models("language"))
    assert {name for name in vision.FULL.models if not name.startswith("timm/")} <= set(list_models())
    assert vision.FULL.batches == (1, 128) and vision.FULL.size == 224


@pytest.mark.slow
def test_first_calls():
    (shape,) = cold.shapes(["causal_conv1d", "lti"], "cpu")
    ((first, cached, later),) = cold.cold([shape], "cpu")
    assert len(first.values) == len(cached.values) == 1 and len(later.values) == cold.REPEATS
    assert cold.shapes(["selective_scan"], "cuda")[0].dtype == "bfloat16"


def test_the_table_has_ratios_spreads_and_reasons():
    made = [
        results.Result("images", "1 image", "vit", "images/s", (10.0, 20.0, 30.0)),
        results.Result("images", "1 image", "vim", "images/s", (5.0,)),
        results.Result("images", "1 image", "vmamba", "images/s", reason="out of memory"),
    ]
    text = results.to_markdown(made)
    assert "### images" in text and "10..30" in text and "0.25 of vit" in text and "out of memory" in text
    first, second = results.records(made)
    assert (first.value, first.n, first.spread) == (20.0, 3, (10.0, 30.0)) and second.model == "vim"

"""Golden cases of whole models and blocks: outputs, features by module name, and gradients of the original."""

import json
import re
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ssmlab.checkpoints import from_upstream

Found = dict[str, Tensor]

# Families whose gradients are computed in float64. A chain of instance norms turns a rounding of 1e-7 into one of 1e-2
# in the gradients, and moves activations across the kink of LeakyReLU; the tolerance, a multiple of the error that the
# original had on one machine, is passed or not by the number of threads. The exact gradients have no such luck.
EXACT_GRADIENTS = ("umamba",)
Worst = tuple[float, str]


def run_images(case: dict, inputs: Found, model: nn.Module) -> Found:
    """A classifier's logits and pooled features, a block's output, or the maps of a backbone's stages."""
    x = inputs["x"]
    if "out" in case["outputs"]:
        y = model(x)
        return {"out": y[0] if isinstance(y, tuple) else y}
    if "stage0" in case["outputs"]:
        return {f"stage{i}": y for i, y in enumerate(model.forward_intermediates(x, intermediates_only=True))}
    logits = model(x)
    if "features" not in case["outputs"]:
        return {"logits": logits}
    return {"logits": logits, "features": model.forward_head(model.forward_features(x), pre_logits=True)}


def run_segmenter(case: dict, inputs: Found, model: nn.Module) -> Found:
    """Logits, and those of lower resolutions as `logits_1` and so on where the case has them."""
    if len(case["outputs"]) == 1:
        return {"logits": model(inputs["x"])}
    return {f"logits_{i}" if i else "logits": y for i, y in enumerate(model.forward_scales(inputs["x"]))}


def check_model(root: Path, case: dict, fill, run: Callable = run_images) -> Worst:
    """The largest error over its tolerance, and where it is."""
    manifest = json.loads((root / case["manifest"]).read_text())
    weights = fill.fill_entries(manifest["entries"], case["fill_prefix"], manifest.get("tied"))
    model = from_upstream(case["family"], case["config"], weights)
    gold = load_file(root / case["file"])
    inputs = {name: fill.make_input(spec) for name, spec in case["inputs"].items()}
    gradients = case.get("gradients")
    for name in inputs if gradients else ():
        if inputs[name].is_floating_point():
            inputs[name].requires_grad_()
    with torch.set_grad_enabled(gradients is not None), watched(model, case["features"]) as seen:
        found = run(case, inputs, model)
    seen |= {name.removeprefix("feat."): value for name, value in found.items() if name.startswith("feat.")}
    outputs, features = case["tolerance"]["outputs_atol"], case["tolerance"]["features_atol"]
    errors = [(excess(name, found[name], gold, outputs[name], fill), name) for name in case["outputs"]]
    errors += [
        (excess(f"feat.{name}", seen[name], gold, features[name], fill), name) if name in seen else (torch.inf, name)
        for name in case["features"]
    ]
    note = ""
    if gradients and case["family"] in EXACT_GRADIENTS:
        rough, where = max(_check_gradients(case, inputs, found, model, gold, fill))
        note = f"; gradients in float64, in float32 they are at {rough:.3f}, {where}"
        model.zero_grad()
        inputs = {name: x.detach().double().requires_grad_() for name, x in inputs.items()}
        found = run(case, inputs, model.double())
    if gradients:
        errors += _check_gradients(case, inputs, found, model, gold, fill)
    worst, where = max(errors)
    return worst, where + note


def _check_gradients(case, inputs: Found, found: Found, model: nn.Module, gold: Found, fill) -> list[Worst]:
    (name,) = re.findall(r"outputs\['(\w+)'\]", case["gradients"]["loss"])
    loss = (found[name] * fill.uniform(case["fill_prefix"] + "loss", found[name].shape)).sum()
    loss.backward()
    tolerance = case["gradients"]["tolerance"]
    own = dict(model.named_parameters(remove_duplicate=False))
    errors = [(_ratio(loss - gold["grad.loss"].squeeze(), tolerance["loss_atol"]), "grad.loss")]
    for place, atol in tolerance["atol"].items():
        kind, _, key = place.partition(".")
        value = inputs[key].grad if kind == "input" else own[key].grad
        errors.append((excess(f"grad.{place}", value, gold, atol, fill), f"grad.{place}"))
    for key, norm in case["gradients"]["param_norms"].items():
        if key not in case["gradients"].get("params_with_vanishing_gradient", ()):
            error = own[key].grad.double().norm() - norm
            errors.append((_ratio(error, tolerance["param_norms_atol"][key]), f"norm of grad.{key}"))
    return errors


@contextmanager
def watched(model: nn.Module, names):
    """Outputs of modules by name, `name#i` for the i-th of a tuple; of several calls the first."""
    seen: Found = {}
    modules = dict(model.named_modules())

    def keep(name, index):
        def hook(module, arguments, output):
            value = output[index] if index is not None else output[0] if isinstance(output, tuple) else output
            seen.setdefault(name, value)

        return hook

    handles = []
    for name in names:
        path, _, index = name.partition("#")
        if path in modules:
            handles.append(modules[path].register_forward_hook(keep(name, int(index) if index else None)))
    yield seen
    for handle in handles:
        handle.remove()


SUMMARIES: dict[str, Callable[[Tensor], Tensor]] = {
    "first256": lambda t: t[..., :256],
    "logsumexp": lambda t: t.double().logsumexp(-1),
    "row_absmax": lambda t: t.abs().amax(-1),
}


def excess(name: str, value: Tensor, gold: Found, atol: float, fill) -> float:
    """The largest error over the tolerance, of a tensor stored in full or as summaries."""
    value = value.detach().float()
    if name in gold:
        assert value.shape == gold[name].shape, f"{name}: {tuple(value.shape)}, gold {tuple(gold[name].shape)}"
        return _ratio(value.double() - gold[name].double(), atol)
    errors = []
    for key, expected in gold.items():
        stem, _, kind = key.rpartition(".")
        if stem != name or kind in ("stats", "argmax"):
            continue
        if kind in ("head", "probe"):
            summary = getattr(fill, kind)(value, expected.numel())
        else:
            summary = SUMMARIES[kind](value)
        errors.append(_ratio(summary.double() - expected.double(), atol))
    assert errors, f"{name}: nothing stored to compare with"
    return max(errors)


def _ratio(error: Tensor, atol: float) -> float:
    error = error.detach().double().abs().max() if error.numel() else torch.zeros(())
    return 0.0 if error == 0 else float(torch.nan_to_num(error / atol, nan=torch.inf))

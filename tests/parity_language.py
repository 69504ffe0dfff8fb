"""What golden cases of language models hold besides logits: eight decoded steps, and the states behind them."""

import re
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ssmlab.nn import Mamba3State

Found = dict[str, Tensor]


def run_language(case: dict, inputs: Found, model: nn.Module) -> Found:
    """Logits of the whole text, then of the prompt and of one token at a time, and two layers' states at the end.

    Features that the original shows while it reads the prompt are `feat.<module>`: it flattens them to (b l, d).
    """
    ids = inputs["input_ids"]
    found = {"logits": model(ids)[0]}
    if "decode" not in case:
        return found
    prompt = case["decode"]["prompt_tokens"]
    with torch.no_grad(), _inputs_of_convolutions(model) as inputs_of, _flat_features(model, case) as seen:
        logits, state = model(ids[:, :prompt], last_only=True)
        steps = []
        for t in range(prompt, ids.shape[1]):
            step, state = model(ids[:, t : t + 1], state)
            steps.append(step)
    found |= {"prompt_last_logits": logits[:, 0], "step_logits": torch.cat(steps, 1)}
    found |= {f"feat.{name}": value.flatten(0, 1) for name, value in seen.items()}
    for name, layer in (("layer0", 0), ("last_layer", len(state) - 1)):
        # the original keeps as many inputs as the convolution is wide, one more than the next token needs
        found[f"conv_state_{name}"] = torch.cat(inputs_of[layer], 2)[..., -model.config.d_conv :]
        found[f"ssm_state_{name}"] = state[layer].ssm
    return found


def run_mamba3(case: dict, inputs: Found, model: nn.Module) -> Found:
    """Logits of a text; or the output of one block, and where asked the same again with a prompt (its length stands in
    the notes), one token at a time behind it, and the states after both."""
    if "u" not in inputs:
        return run_language(case, inputs, model)
    u = inputs["u"]
    found = {"out": model(u)[0]}
    if "recurrent_out" in case["outputs"]:
        prompt = int(re.findall(r"first (\d+) tokens", case["notes"])[0])
        y, state = model(u[:, :prompt])
        steps, found = [y], found | _mamba3_states("prompt", state)
        for t in range(prompt, u.shape[1]):
            y, state = model(u[:, t : t + 1], state)
            steps.append(y)
        found |= {"recurrent_out": torch.cat(steps, 1), **_mamba3_states("final", state)}
    return found


def _mamba3_states(when: str, state: Mamba3State) -> Found:
    """By the original's names and shapes; with one input a head its k and v have no axis for it."""
    k, v = (part.squeeze(2) if part.shape[2] == 1 else part for part in (state.k, state.v))
    return {f"{when}_{name}_state": part for name, part in state._replace(k=k, v=v)._asdict().items()}


@contextmanager
def _inputs_of_convolutions(model: nn.Module):
    """The inputs of every layer's convolution, (b, d, l) a call."""
    kept: list[list[Tensor]] = [[] for _ in model.backbone.layers]

    def keeper(own):
        return lambda module, inputs: own.append(inputs[0])

    handles = [
        layer.mixer.conv1d.register_forward_pre_hook(keeper(own)) for layer, own in zip(model.backbone.layers, kept)
    ]
    yield kept
    for handle in handles:
        handle.remove()


@contextmanager
def _flat_features(model: nn.Module, case: dict):
    """The first output of the modules whose feature has two axes."""
    kept: Found = {}
    modules = dict(model.named_modules())

    def keeper(name):
        def keep(module, inputs, output):
            kept.setdefault(name, output)

        return keep

    handles = [
        modules[name].register_forward_hook(keeper(name)) for name, shape in case["features"].items() if len(shape) == 2
    ]
    yield kept
    for handle in handles:
        handle.remove()

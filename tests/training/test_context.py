"""A sequence over several processes: outputs and gradients are those of the whole one."""

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from launched import sequences
from processes import together
from ssmlab.core.errors import UserError
from ssmlab.models import create_model
from ssmlab.training.context import cut_sequences, piece_of


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 4])
def test_pieces_are_the_whole(tmp_path, size):
    together(size, "launched", "pieces", str(tmp_path))
    for name in ("mamba_lm_test", "mamba2_lm_test"):
        model, tokens, index = sequences(name)
        logits, state = model(tokens, seq_idx=index)
        (logits**2).sum().backward()
        found = [load_file(tmp_path / f"{name}-{rank}") for rank in range(size)]
        torch.testing.assert_close(torch.cat([one["logits"] for one in found], 1), logits, atol=1e-6, rtol=0)
        torch.testing.assert_close(found[-1]["ssm"], state[-1].ssm, atol=1e-6, rtol=0)
        torch.testing.assert_close(found[-1]["conv"], state[-1].conv, atol=1e-6, rtol=0)
        for key, parameter in model.named_parameters():
            torch.testing.assert_close(found[0][key], parameter.grad, atol=1e-6, rtol=1e-6, msg=key)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What the documented program computes as one process."""
    folder = tmp_path_factory.mktemp("whole")
    together(1, "launched", "documented", str(folder))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 4])
def test_the_documented_program_computes_the_whole_in_float32(whole, tmp_path, size):
    """1,001 tokens, so that pieces differ in length."""
    together(size, "launched", "documented", str(tmp_path))
    for name in ("mamba_lm_test", "mamba2_lm_test"):
        assert_whole(load_file(whole / f"{name}-0"), [load_file(tmp_path / f"{name}-{i}") for i in range(size)])


def assert_whole(wanted, found):
    found[0]["logits"] = torch.cat([one["logits"] for one in found], 1)
    assert found[0].keys() == wanted.keys()
    for key, value in wanted.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(found[0][key], value, atol=1e-6, rtol=0, msg=key)
    for one in found[1:]:  # all make the same update
        assert all(torch.equal(one[key], value) for key, value in found[0].items() if key != "logits")


@pytest.mark.parametrize("name", ["mamba_lm_test", "mamba2_lm_test"])
def test_a_process_alone_computes_the_whole(name):
    model, tokens, index = sequences(name)
    with cut_sequences(model):
        cut = model(tokens, seq_idx=index)[0]
    assert torch.equal(cut, model(tokens, seq_idx=index)[0])


def test_pieces_lie_side_by_side():
    whole = torch.arange(22).view(2, 11)
    parts = [piece_of(whole, rank, 3) for rank in range(3)]
    assert torch.equal(torch.cat(parts, 1), whole) and [part.shape[1] for part in parts] == [3, 4, 4]


@pytest.mark.parametrize(("model", "message"), [
    (lambda: nn.Linear(2, 2), "no Mamba"), (lambda: create_model("s4d_lm_test", vocab_size=9), "S4D.*cannot read"),
])  # fmt: skip
def test_other_layers_are_refused(model, message):
    with pytest.raises(UserError, match=message), cut_sequences(model()):
        pass

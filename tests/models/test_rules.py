"""Conversion maps: the first rule decides, nothing is lost in silence, tied parameters need one of their names."""

import pytest
import torch
from torch import nn

from ssmlab.checkpoints import from_upstream
from ssmlab.core.errors import ModelError
from ssmlab.models.rules import Rule, convert
from ssmlab.models.weights import fit


def test_the_first_matching_rule_decides():
    rules = [Rule(r"old\.(.*)", r"new.\1", torch.t), Rule(r"old\..*|mask", None)]
    state = {"old.weight": torch.zeros(2, 3), "mask": torch.zeros(1), "kept": torch.ones(1)}
    found = convert(state, rules)
    assert {key: tuple(value.shape) for key, value in found.items()} == {"new.weight": (3, 2), "kept": (1,)}


def test_a_rule_matches_whole_keys():
    assert set(convert({"a.b": torch.zeros(1), "xa.b": torch.zeros(1)}, [Rule("a.b", "c")])) == {"c", "xa.b"}


def test_two_keys_for_one_place_are_all_listed():
    state = {name: torch.zeros(1) for name in ("a1", "a2", "b1", "b2")}
    with pytest.raises(ModelError, match=r"2 keys:\n  a1 and a2 both become a\n  b1 and b2 both become b"):
        convert(state, [Rule(r"(.)\d", r"\1")])


def test_an_unknown_family_names_the_known():
    with pytest.raises(ModelError, match="unknown family 'mamba9'; there are"):
        from_upstream("mamba9", {}, {})


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(3, 2)
        self.head = nn.Linear(2, 3, bias=False)
        self.head.weight = self.embedding.weight


@pytest.mark.parametrize("name", ["embedding.weight", "head.weight"])
def test_one_name_of_a_tied_parameter_fills_it(name):
    model, value = Tied(), torch.randn(3, 2)
    fit(model, {name: value}, "file")
    assert torch.equal(model.embedding.weight, value) and model.head.weight is model.embedding.weight
    with pytest.raises(ModelError, match=r"missing in the file: embedding\.weight"):
        fit(model, {}, "file")


def test_parts_become_one_tensor_and_one_tensor_parts():
    joined = [Rule(rf"{name}\.(.+)", r"qk.\1", join=(i, 2)) for i, name in enumerate("qk")]
    state = {"k.weight": torch.ones(2, 3), "q.weight": torch.zeros(2, 3)}  # in whatever order a file has them
    found = convert(state, joined)
    assert torch.equal(found["qk.weight"], torch.tensor([[0.0] * 3] * 2 + [[1.0] * 3] * 2))
    back = convert(found, [Rule(r"qk\.(.+)", (r"q.\1", r"k.\1"))])
    assert back.keys() == state.keys() and all(torch.equal(back[key], state[key]) for key in state)
    with pytest.raises(ModelError, match=r"qk.weight has only 1 of its parts"):
        convert({"k.weight": torch.ones(2, 3)}, joined)

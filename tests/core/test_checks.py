import pytest
import torch

from ssmlab.core.checks import check_shapes
from ssmlab.core.errors import ShapeError


def tensor(*shape):
    return torch.zeros(shape)


def test_the_first_tensor_fixes_each_size():
    sizes = check_shapes("op", x=(tensor(2, 3), "b l"), y=(None, "?: b d"), z=(tensor(3, 7), "l n"))
    assert sizes == {"b": 2, "l": 3, "n": 7}


def test_alternatives_are_tried_in_order():
    assert check_shapes("op", x=(tensor(2, 3), "b l n|b l"))["l"] == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": (tensor(2, 3), "b l"), "y": (tensor(3, 3), "b l")}, r"op: y must have shape \(b=2, l=3\), got \(3, 3\)"),
        ({"x": (tensor(2, 5), "b 4")}, r"x must have shape \(b, 4\), got \(2, 5\)"),
        ({"x": (tensor(2, 3, 4), "b l")}, r"x must have shape \(b, l\), got \(2, 3, 4\)"),
        ({"x": (tensor(4, 4), "b l"), "y": (tensor(5, 4), "b d")}, r"y.permute\(1, 0\) has the expected sizes"),
        ({"x": (tensor(2, 3), "b b")}, r"x must have shape \(b, b\), got \(2, 3\)"),
    ],
)
def test_errors_say_what_was_expected_and_the_cure(arguments, message):
    with pytest.raises(ShapeError, match=message):
        check_shapes("op", **arguments)


def test_known_sizes_are_kept():
    with pytest.raises(ShapeError, match=r"\(n=4, l\)"):
        check_shapes("op", {"n": 4}, B=(tensor(5, 9), "n l"))

"""Another default dtype changes nothing: what is handed to C++ names its dtype."""

import ast
from pathlib import Path

import pytest
import torch

import ssmlab
from ops.test_second_derivatives import BLOCKS, CASES
from ssmlab.models import create_model

ROOT = Path(ssmlab.__file__).parent
FACTORIES = {"empty", "zeros", "ones", "full", "rand", "randn", "linspace", "eye"}
NATIVE = ("ssmlab.ops._native", "ssmlab.ops.steps", "ssmlab.ops.program")
OTHERS = [torch.float64, torch.bfloat16, torch.float16]


def factories_without_dtype(text: str) -> list[int]:
    calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    named = [c for c in calls if isinstance(c.func, ast.Attribute) and c.func.attr in FACTORIES]
    own = [c for c in named if isinstance(c.func.value, ast.Name) and c.func.value.id == "torch"]
    return [c.lineno for c in own if not any(keyword.arg == "dtype" for keyword in c.keywords)]


def test_files_that_call_native_code_name_every_dtype():
    assert factories_without_dtype("torch.empty(3)\ntorch.zeros(3, dtype=torch.int64)") == [1]
    found = {}
    for folder in ("ops", "models", "nn"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            text = file.read_text(encoding="utf-8")
            if folder == "ops" or any(f"from {name} import" in text or f"import {name}" in text for name in NATIVE):
                places = factories_without_dtype(text)
                parameters = [i + 1 for i, line in enumerate(text.split("\n")) if "nn.Parameter(" in line]
                found[str(file.relative_to(ROOT))] = [line for line in places if line not in parameters]
    assert len(found) > 30 and not {name: lines for name, lines in found.items() if lines}


@pytest.fixture(params=OTHERS, ids=str)
def other(request):
    """Sets the default dtype when called."""
    yield lambda: torch.set_default_dtype(request.param)
    torch.set_default_dtype(torch.float32)


def assert_same(found, expected):
    if expected is None:
        assert found is None
    elif isinstance(expected, torch.Tensor):
        assert found.dtype is expected.dtype
        assert torch.equal(found, expected)
    else:
        for own, wanted in zip(found, expected, strict=True):
            assert_same(own, wanted)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_operators(case, dtype, other):
    op, arguments, options = CASES[case]()
    if case == "complex" and dtype is torch.bfloat16:
        pytest.skip("complex numbers have no half precision")
    arguments = {k: t.to(torch.complex64 if t.is_complex() else dtype).requires_grad_() for k, t in arguments.items()}

    def run():
        out = op(**arguments, **options)
        y = out[0] if isinstance(out, tuple) else out
        return out, torch.autograd.grad(y.float().sin().sum(), list(arguments.values()), allow_unused=False)

    expected = run()
    other()
    assert_same(run(), expected)


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks(name, other):
    block, u = BLOCKS[name](), torch.randn((1, 3, 3, 8) if name == "SS2D" else (2, 70, 8))

    def run():
        out = block(u)
        y = out[0] if isinstance(out, tuple) else out
        return out, torch.autograd.grad(y.sin().sum(), list(block.parameters()))

    expected = run()
    other()
    assert_same(run(), expected)


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("dtype", OTHERS, ids=str)
def test_blocks_that_are_made_in_that_dtype(name, dtype):
    try:
        torch.set_default_dtype(dtype)
        block = BLOCKS[name]()
        u = torch.randn((1, 3, 3, 8) if name == "SS2D" else (2, 70, 8))
        out = block(u)
        y = out[0] if isinstance(out, tuple) else out
        y.float().sum().backward()
    finally:
        torch.set_default_dtype(torch.float32)
    assert y.dtype is dtype and y.isfinite().all()
    assert all(p.grad.isfinite().all() for p in block.parameters())


@pytest.mark.parametrize("name", ["mamba_lm_test", "mamba2_lm_test", "mamba3_lm_test", "s4d_lm_test"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_decoding(name, dtype, other):
    torch.manual_seed(0)
    model = create_model(name).to(dtype).eval()

    def run():
        (row,) = model.generate([[3, 1, 2]], max_tokens=8, eos=None)
        return row.tokens, row.score

    expected = run()
    other()
    assert run() == expected


@pytest.mark.parametrize("name", ["vmamba_test", "vim_test", "mambavision_test", "medmamba_test", "resnet_mamba_test"])
@torch.no_grad()
def test_vision_models(name, other):
    torch.manual_seed(0)
    model, x = create_model(name, num_classes=3, image_size=64).eval(), torch.randn(2, 3, 64, 64)
    expected = model(x)
    other()
    assert_same(model(x), expected)

"""torch.compile takes blocks and models as one graph: a training step, and a token of decoding."""

import pytest
import torch

from ssmlab.models import create_model
from ssmlab.nn import Mamba, Mamba2, Mamba3

OPTIONS = {"fullgraph": True, "backend": "aot_eager"}
LONGEST = ("mamba2_lm_test", "mamba3_lm_test", "mamba3_mimo_lm_test")
MODELS = ["mamba_lm_test", *(pytest.param(name, marks=pytest.mark.slow) for name in LONGEST)]


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(lambda: Mamba(16), marks=pytest.mark.slow),  # as in the language model
        lambda: Mamba2(16, headdim=8, d_state=8),
        pytest.param(lambda: Mamba3(16, headdim=8, d_state=8), marks=pytest.mark.slow),
        pytest.param(lambda: Mamba3(16, headdim=8, d_state=8, mimo_rank=2, outproj_norm=True), marks=pytest.mark.slow),
    ],
    ids=["mamba", "mamba2", "mamba3", "mamba3 mimo"],
)
def test_a_block_forward_and_backward(block):
    torch.manual_seed(0)
    block, u = block(), torch.randn(2, 9, 16, requires_grad=True)
    leaves = [u, *block.parameters()]
    exact = torch.autograd.grad(block(u)[0].square().sum(), leaves)
    compiled = torch.compile(block, **OPTIONS)
    found = torch.autograd.grad(compiled(u)[0].square().sum(), leaves)
    for a, b in zip(found, exact, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_a_training_step_of_a_language_model(name):
    torch.manual_seed(0)
    model = create_model(name)
    ids = torch.randint(0, 50, (2, 12))

    def loss(ids):
        logits, _ = model(ids[:, :-1])
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())

    exact = torch.autograd.grad(loss(ids), list(model.parameters()))
    found = torch.autograd.grad(torch.compile(loss, **OPTIONS)(ids), list(model.parameters()))
    for a, b in zip(found, exact, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_a_token_of_decoding(name):
    torch.manual_seed(0)
    model = create_model(name).eval()
    with torch.no_grad():
        _, state = model(torch.randint(0, 50, (1, 5)))
        token = torch.tensor([[7]])
        logits, after = model(token, state)
        found, found_after = torch.compile(model, **OPTIONS)(token, state)
    torch.testing.assert_close(found, logits, atol=1e-5, rtol=1e-4)
    for a, b in zip(found_after, after, strict=True):
        torch.testing.assert_close(tuple(a), tuple(b), atol=1e-5, rtol=1e-4)

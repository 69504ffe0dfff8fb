"""The laws of a causal sequence block, for any block: each function fails where one does not hold.

What a state holds is compared through what follows from it, so that states of any form will do: a few more tokens.
"""

import copy

import torch

WIDTH, LENGTH, AFTER = 8, 9, 3
MASKS = {
    "left": [[0, 0, 0, 1, 1, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1, 1, 1, 1]],
    "right": [[1, 1, 0, 0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1, 1, 0]],
    "gaps": [[0, 1, 0, 0, 1, 1, 0, 1, 0], [1, 0, 1, 0, 1, 0, 1, 0, 1]],
    "one row full, one empty": [[1] * 9, [0] * 9],
}


def inputs(batch=2, length=LENGTH):
    return torch.randn(batch, length, WIDTH, dtype=torch.float64)


def assert_close(got, expected):
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-11)


def row_of(state, row):
    return None if state is None else type(state)(*(part[row : row + 1] for part in state))


def follow(block, state, tokens):
    """What the block answers to the tokens that come next."""
    return block(tokens, state)[0]


def gradients(loss, block, *tensors):
    return torch.autograd.grad(loss, [*tensors, *block.parameters()])


def one_by_one_equals_whole(block):
    u, later = inputs(), inputs(length=AFTER)
    whole, last = block(u)
    state, outputs = None, []
    for t in range(LENGTH):
        y, state = block(u[:, t : t + 1], state)
        outputs.append(y)
    assert_close(torch.cat(outputs, 1), whole)
    assert_close(follow(block, state, later), follow(block, last, later))


def halves_equal_whole(block, cut):
    u, later = inputs().requires_grad_(), inputs(length=AFTER)
    weight = torch.randn(2, LENGTH + AFTER, WIDTH, dtype=torch.float64)
    first, state = block(u[:, :cut])
    second, state = block(u[:, cut:], state)
    whole, last = block(u)
    halves = torch.cat([first, second, follow(block, state, later)], 1)
    together = torch.cat([whole, follow(block, last, later)], 1)
    assert_close(halves, together)
    assert_close(gradients((halves * weight).sum(), block, u), gradients((together * weight).sum(), block, u))


def padded_equals_alone(block, kind, with_state):
    """Outputs, what follows, and gradients; NaN at the padding must reach none of them."""
    mask = torch.tensor(MASKS[kind]).bool()
    initial = block(inputs(length=4))[1] if with_state else None
    if initial is not None:
        initial = type(initial)(*(part.detach() for part in initial))
    u, later = inputs().requires_grad_(), inputs(length=AFTER)
    weight = torch.randn(2, LENGTH + AFTER, WIDTH, dtype=torch.float64)
    y, state = block(u.masked_fill(~mask[..., None], float("nan")), initial, mask=mask)
    assert torch.equal(y[~mask], torch.zeros_like(y[~mask]))
    after = follow(block, state, later)
    padded_loss, alone_loss = (torch.cat([y, after], 1) * weight).sum(), torch.zeros(())
    for row in range(2):
        own = row_of(initial, row)
        if mask[row].any():
            alone, own = block(u[row : row + 1, mask[row]], own)
            assert_close(y[row, mask[row]], alone[0])
            alone_loss = alone_loss + (alone * weight[row, :LENGTH][mask[row]]).sum()
        expected = follow(block, own, later[row : row + 1])
        assert_close(after[row], expected[0])
        alone_loss = alone_loss + (expected * weight[row, LENGTH:]).sum()
    assert_close(gradients(padded_loss, block, u), gradients(alone_loss, block, u))


def packed_equals_each_alone(block, masked, with_state):
    """With numbers that return, padding with numbers of its own, and a state, which belongs to the first sequence."""
    initial = block(inputs(1, 4))[1] if with_state else None
    parts, later = [inputs(1, length) for length in (4, 1, 5)], inputs(1, AFTER)
    index, mask, u = torch.tensor([[7] * 4 + [2] + [7] * 5]), None, torch.cat(parts, 1)
    if masked:
        gap = torch.tensor([True] * 2 + [False] * 4 + [True] + [False] * 6 + [True] * 2)
        mask = ~gap[None]
        wide, numbers = torch.randn(1, 15, WIDTH, dtype=torch.float64), torch.full((1, 15), 99)
        wide[mask], numbers[mask] = u[0], index[0]
        u, index = wide, numbers
    y, state = block(u, initial, mask=mask, seq_idx=index)
    alone = [block(part, initial if i == 0 else None) for i, part in enumerate(parts)]
    assert_close(y if mask is None else y[mask][None], torch.cat([out for out, _ in alone], 1))
    assert_close(follow(block, state, later), follow(block, alone[-1][1], later))


def one_sequence_is_continued(block):
    """`seq_idx` with a single number changes nothing, with a state or without."""
    u, later = inputs(), inputs(length=AFTER)
    for initial in (None, block(inputs(length=4))[1]):
        y, state = block(u, initial, seq_idx=torch.zeros(2, LENGTH).long())
        expected, last = block(u, initial)
        assert_close(y, expected)
        assert_close(follow(block, state, later), follow(block, last, later))


def future_is_ignored_and_rows_are_independent(block):
    """To rounding: some operators multiply out pairs of tokens, of which the later ones have the factor 0."""
    u = inputs()
    changed = u.clone()
    changed[0, 5:] += 1
    y, other = block(u)[0], block(changed)[0]
    assert_close(y[1], other[1])
    assert_close(y[0, :5], other[0, :5])
    assert not torch.allclose(y[0, 5:], other[0, 5:])


def float32_is_close_to_float64(block, tolerance=2e-6):
    """Outputs and every gradient, as ||y - y64|| / ||y64||; the block comes in float64."""
    narrow, u = copy.deepcopy(block).float(), inputs()
    weight = torch.randn(2, LENGTH, WIDTH, dtype=torch.float64)
    found = []
    for module, dtype in ((block, torch.float64), (narrow, torch.float32)):
        own = u.to(dtype).requires_grad_()
        y, _ = module(own)
        found.append((y, *gradients((y * weight.to(dtype)).sum(), module, own)))
    names = ["y", "u", *(name for name, _ in block.named_parameters())]
    for name, exact, got in zip(names, *found):
        error = (got.double() - exact).norm() / exact.norm()
        assert error <= tolerance, f"{name}: {error:.2e}"


def sub_modules_are_called(block, names):
    """An adapter wraps a sub-module, so nothing may read the weights around it."""
    calls = []
    for name in names:
        getattr(block, name).register_forward_hook(lambda *_, name=name: calls.append(name))
    block(inputs())
    assert sorted(calls) == sorted(names)


def half_precision_is_close(block, tolerance=0.05):
    """The module in bfloat16 and autocast, against float32."""
    block, u = block.float(), inputs().float()
    expected = block(u)[0]
    with torch.autocast("cpu", torch.bfloat16):
        y, _ = block(u)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), expected, rtol=tolerance, atol=0.05 * float(expected.detach().abs().max()))
    y, _ = block.bfloat16()(u.bfloat16(), mask=torch.ones(2, LENGTH).bool())
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), expected, rtol=tolerance, atol=0.05 * float(expected.detach().abs().max()))

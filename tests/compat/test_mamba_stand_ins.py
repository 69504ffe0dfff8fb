"""The stand-ins of mamba_ssm: every signature against the operators' definition, every option once."""

import pytest
import torch
from torch.nn import functional as F

from ops.common import relative_error
from ssmlab import ops
from ssmlab.compat import selective_scan_cuda, selective_scan_cuda_core, selective_scan_cuda_oflex
from ssmlab.compat.mamba_ssm.modules.mamba_simple import Mamba
from ssmlab.compat.mamba_ssm.ops.selective_scan_interface import (
    bimamba_inner_fn,
    bimamba_inner_ref,
    mamba_inner_fn,
    mamba_inner_fn_no_out_proj,
    mamba_inner_ref,
    selective_scan_fn,
    selective_scan_ref,
)
from ssmlab.compat.mamba_ssm.ops.triton.layer_norm import RMSNorm, layer_norm_fn, layer_norm_linear_fn, rms_norm_fn
from ssmlab.compat.mamba_ssm.ops.triton.layernorm_gated import layernorm_fn, rms_norm_ref, rmsnorm_fn
from ssmlab.compat.mamba_ssm.ops.triton.selective_state_update import (
    selective_state_update,
    selective_state_update_ref,
)
from ssmlab.compat.mamba_ssm.ops.triton.ssd_combined import (
    mamba_chunk_scan,
    mamba_chunk_scan_combined,
    mamba_conv1d_scan_ref,
    mamba_split_conv1d_scan_combined,
    mamba_split_conv1d_scan_ref,
    ssd_chunk_scan_combined_ref,
    ssd_selective_scan,
)
from ssmlab.core.errors import UserError

b, d, n, l = 2, 6, 4, 21
close = pytest.approx(0, abs=3e-6)


def rand(*shape, dtype=torch.float32):
    return torch.randn(*shape, dtype=dtype)


def scan_inputs(complex_=False):
    A = -torch.rand(d, n) - 0.1
    A = torch.complex(A, rand(d, n)) if complex_ else A
    length = 2 * l if complex_ else l
    maps = {"B": rand(b, n, length), "C": rand(b, n, length)}
    return {"u": rand(b, d, l), "delta": 0.5 * torch.rand(b, d, l), "A": A, **maps, "D": rand(d), "z": rand(b, d, l),
            "delta_bias": 0.5 * torch.rand(d)}  # fmt: skip


def gradients(function, inputs, *rest, **options):
    leaves = {k: t.clone().requires_grad_() for k, t in inputs.items()}
    y = function(**leaves, **options)
    weight = torch.linspace(-1, 1, y.numel()).view(y.shape)
    return [y.detach(), *torch.autograd.grad((y * weight).sum(), list(leaves.values()))]


def assert_same(found, expected):
    assert max(relative_error(a, e) for a, e in zip(found, expected, strict=True)) == close


@pytest.mark.parametrize("complex_", [False, True], ids=["real", "complex"])
def test_scan_and_its_definition(complex_):
    inputs = scan_inputs(complex_)
    assert_same(*(gradients(f, inputs, delta_softplus=True) for f in (selective_scan_fn, selective_scan_ref)))
    y, state = selective_scan_fn(**inputs, return_last_state=True)
    assert state.shape == (b, d, n) and state.is_complex() == complex_
    assert torch.equal(y, selective_scan_fn(**inputs))


@pytest.mark.parametrize("constant", ["", "B", "C", "BC"])
@pytest.mark.parametrize("complex_", [False, True], ids=["real", "complex"])
def test_inner(complex_, constant):
    rank, width, model = 3, 4, 5
    A = scan_inputs(complex_)["A"]
    columns = n * (2 if complex_ else 1) * (2 - len(constant))
    inputs = {
        "xz": rand(b, 2 * d, l), "conv1d_weight": rand(d, 1, width), "conv1d_bias": rand(d),
        "x_proj_weight": 0.3 * rand(rank + columns, d), "delta_proj_weight": 0.3 * rand(d, rank),
        "out_proj_weight": rand(model, d), "out_proj_bias": rand(model), "A": A, "D": rand(d), "delta_bias": rand(d),
    } | {name: rand(d, n, dtype=A.dtype) for name in constant}  # fmt: skip
    found = gradients(mamba_inner_fn, inputs)
    assert found[0].shape == (b, l, model)
    assert_same(found, gradients(mamba_inner_ref, inputs))

    i = inputs  # by hand
    x, z = i["xz"].chunk(2, dim=1)
    x, _ = ops.causal_conv1d(x, i["conv1d_weight"][:, 0], i["conv1d_bias"], activation="silu", backend="reference")
    dt, *maps = (x.mT @ i["x_proj_weight"].mT).split([rank, *[n * (2 if complex_ else 1)] * (2 - len(constant))], -1)
    if complex_:
        maps = [m.unflatten(-1, (n, 2)).transpose(1, 2).flatten(2) for m in maps]
    else:
        maps = [m.mT for m in maps]
    B, C = (i[name] if name in constant else maps.pop(0) for name in "BC")
    dt = (dt @ i["delta_proj_weight"].mT).mT
    y = selective_scan_ref(x, dt, A, B, C, i["D"], z, i["delta_bias"], True)
    assert relative_error(found[0], F.linear(y.mT, i["out_proj_weight"], i["out_proj_bias"])) == close


def block_weights():
    rank, width, model = 3, 4, 5
    return {
        "xz": rand(b, 2 * d, l), "conv1d_weight": rand(d, 1, width), "conv1d_bias": rand(d),
        "x_proj_weight": 0.3 * rand(rank + 2 * n, d), "delta_proj_weight": 0.3 * rand(d, rank),
        "out_proj_weight": rand(model, d), "out_proj_bias": rand(model), "A": -torch.rand(d, n) - 0.1,
    }, {"D": rand(d), "delta_bias": rand(d)}  # fmt: skip


@pytest.mark.parametrize("biases", [{}, {"B_proj_bias": rand(n), "C_proj_bias": rand(n)}], ids=["plain", "biases"])
def test_inner_without_its_projection(biases):
    weights, rest = block_weights()
    whole = mamba_inner_fn(**weights, **rest, **biases)
    projection = [weights.pop(name) for name in ("out_proj_weight", "out_proj_bias")]
    y = mamba_inner_fn_no_out_proj(*weights.values(), **rest, **biases)
    assert y.shape == (b, d, l) and relative_error(F.linear(y.mT, *projection), whole) == close


@pytest.mark.parametrize("constant", [False, True], ids=["maps", "constant maps"])
def test_inner_in_both_directions(constant):
    weights, rest = block_weights()
    maps = {"B": rand(d, n), "C": rand(d, n)} if constant else {}
    if constant:
        weights["x_proj_weight"] = weights["x_proj_weight"][:3]
    inputs = weights | {"A_b": -torch.rand(d, n) - 0.1} | maps | rest
    found = gradients(bimamba_inner_fn, inputs)
    assert_same(found, gradients(bimamba_inner_ref, inputs))

    i = inputs  # by hand
    x, z = i["xz"].chunk(2, dim=1)
    x, _ = ops.causal_conv1d(x, i["conv1d_weight"][:, 0], i["conv1d_bias"], activation="silu", backend="reference")
    dt, *projected = (x.mT @ i["x_proj_weight"].mT).split([3] if constant else [3, n, n], -1)
    B, C = maps.values() if constant else (m.mT for m in projected)
    dt = (dt @ i["delta_proj_weight"].mT).mT
    forward = selective_scan_ref(x, dt, i["A"], B, C, i["D"], z, i["delta_bias"], True)
    x, dt, z = (t.flip(-1) for t in (x, dt, z))
    B, C = (B, C) if constant else (B.flip(-1), C.flip(-1))
    back = selective_scan_ref(x, dt, i["A_b"], B, C, i["D"], z, i["delta_bias"], True).flip(-1)
    y = F.linear((forward + back).mT, i["out_proj_weight"], i["out_proj_bias"])
    assert relative_error(found[0], y) == close
    with pytest.raises(UserError, match="complex A"):
        bimamba_inner_fn(**inputs | {"A_b": torch.complex(i["A_b"], i["A_b"])})


def test_inner_norms_and_biases():
    rank = 3
    arguments = [rand(b, 2 * d, l), rand(d, 1, 4), None, rand(rank + 2 * n, d), rand(d, rank), rand(5, d), None]
    A = -torch.rand(d, n) - 0.1
    plain = mamba_inner_fn(*arguments, A)
    biased = mamba_inner_fn(*arguments, A, B_proj_bias=rand(n), C_proj_bias=rand(n))
    weights = {"b_rms_weight": torch.ones(n), "c_rms_weight": torch.ones(n), "dt_rms_weight": torch.ones(d)}
    normed = mamba_inner_fn(*arguments, A, **weights)
    assert len({float(y.norm()) for y in (plain, biased, normed)}) == 3
    louder = [*arguments[:3], arguments[3] * 7, *arguments[4:]]  # what is normed does not mind its scale
    assert relative_error(mamba_inner_fn(*louder, A, **weights), normed) == close


def token(heads=None, groups=None, tied=False):
    shape = (d,) if heads is None else (heads, d)
    maps = (n,) if groups is None else (groups, n)
    values = {"x": rand(b, *shape), "dt": rand(b, *shape), "A": -torch.rand(*shape, n), "B": rand(b, *maps),
              "C": rand(b, *maps), "D": rand(*shape), "z": rand(b, *shape), "dt_bias": rand(*shape)}  # fmt: skip
    if tied:
        values["dt"] = rand(b, heads)[..., None].expand(b, heads, d)
        values["A"] = -torch.rand(heads)[:, None, None].expand(heads, d, n)
        values["D"], values["dt_bias"] = (rand(heads)[:, None].expand(heads, d) for _ in range(2))
    return rand(b, *shape, n), values


@pytest.mark.parametrize("absent", [(), ("D",), ("z",), ("dt_bias",), ("D", "z", "dt_bias")], ids=str)
@pytest.mark.parametrize("form", [{}, {"heads": 4, "groups": 2}, {"heads": 4, "groups": 1, "tied": True}], ids=str)
def test_state_update(form, absent):
    state, values = token(**form)
    values |= dict.fromkeys(absent)
    expected_state = state.clone()
    expected = selective_state_update_ref(expected_state, **values, dt_softplus=True)
    found = selective_state_update(state, **values, dt_softplus=True)
    assert relative_error(found, expected) == close and relative_error(state, expected_state) == close


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_state_update_in_half_precision(dtype):
    state, values = token()
    state, values["x"] = state.to(dtype), values["x"].to(dtype)
    exact = state.double()
    expected = selective_state_update_ref(exact, **{k: t.double() for k, t in values.items()})
    found = selective_state_update(state, **values)
    assert found.dtype == state.dtype == dtype
    assert relative_error(found, expected) < 1e-2 and relative_error(state, exact) < 1e-2


@pytest.mark.parametrize("form", [{}, {"heads": 4, "groups": 2, "tied": True}], ids=str)
def test_state_update_of_chosen_rows(form):
    state, values = token(**form)
    many = rand(9, *state.shape[1:])
    rows = torch.tensor([5, -1], dtype=torch.int32)
    alone = many[5:6].clone()
    before = many.clone()
    first = {k: t[:1] if k in ("x", "dt", "z", "B", "C") else t for k, t in values.items()}
    expected = selective_state_update_ref(alone, **first)
    found = selective_state_update(many, **values, state_batch_indices=rows)
    assert relative_error(found[:1], expected) == close and not found[1].any()
    assert relative_error(many[5:6], alone) == close
    assert torch.equal(many[torch.arange(9) != 5], before[torch.arange(9) != 5])


def ssd_inputs(g=2, h=4, p=3):
    return {"x": rand(b, l, h, p), "dt": rand(b, l, h), "A": -torch.rand(h) - 0.1, "B": rand(b, l, g, n),
            "C": rand(b, l, g, n), "D": rand(h, p), "z": rand(b, l, h, p), "dt_bias": rand(h)}  # fmt: skip


def test_chunk_scan_and_its_definitions():
    i = ssd_inputs()
    options = {"chunk_size": 8, "dt_softplus": True}
    expected = gradients(ssd_chunk_scan_combined_ref, i, **options)
    for function in (mamba_chunk_scan_combined, mamba_chunk_scan):
        assert_same(gradients(function, i, **options), expected)
    assert_same(gradients(ssd_selective_scan, i, dt_softplus=True), expected)
    i["D"] = rand(4)
    assert_same(gradients(mamba_chunk_scan, i, **options), gradients(ssd_selective_scan, i, dt_softplus=True))


def test_chunk_scan_options():
    i = ssd_inputs()
    state = rand(b, 4, 3, n)
    y, final = mamba_chunk_scan_combined(**i, chunk_size=8, initial_states=state, return_final_states=True)
    expected = ops.ssd(**i, initial_state=state, backend="reference")
    assert relative_error(y, expected[0]) == close and relative_error(final, expected[1]) == close
    limited = {"dt_softplus": True, "dt_limit": (0.3, 0.9)}
    dt = F.softplus(i["dt"] + i["dt_bias"]).clamp(0.3, 0.9)
    by_hand = i | {"dt": dt, "dt_bias": None}
    expected = ops.ssd(**by_hand, backend="reference")[0]
    assert relative_error(mamba_chunk_scan_combined(**i, chunk_size=8, **limited), expected) == close
    assert relative_error(ssd_selective_scan(**i, **limited), expected) == close


def test_states_after_packed_sequences():
    i = {k: t[:1] if k in ("x", "dt", "B", "C", "z") else t for k, t in ssd_inputs().items()}
    bounds = torch.tensor([0, 5, 6, l])
    seq_idx = torch.repeat_interleave(torch.arange(3), bounds.diff())[None]
    y, final, states = mamba_chunk_scan_combined(
        **i, chunk_size=8, seq_idx=seq_idx, cu_seqlens=bounds, return_final_states=True, return_varlen_states=True
    )
    assert states.shape == (3, 4, 3, n) and relative_error(states[2:], final) == close
    first = {k: t[:, :5] if k in ("x", "dt", "B", "C", "z") else t for k, t in i.items()}
    expected = ops.ssd(**first, backend="reference")
    assert relative_error(states[:1], expected[1]) == close and relative_error(y[:, :5], expected[0]) == close
    with pytest.raises(UserError, match="needs cu_seqlens"):
        mamba_chunk_scan_combined(**i, chunk_size=8, return_varlen_states=True)


@pytest.mark.parametrize("norm", [None, True, False], ids=["no norm", "norm then gate", "gate then norm"])
def test_split_scan(norm):
    h, p, g = 4, 3, 2
    d_ssm, width = h * p, h * p + 2 * g * n
    inputs = {"zxbcdt": rand(b, l, d_ssm + width + h), "conv1d_weight": rand(width, 4), "conv1d_bias": rand(width),
              "dt_bias": rand(h), "A": -torch.rand(h) - 0.1, "D": rand(h), "outproj_weight": rand(5, d_ssm),
              "outproj_bias": rand(5)}  # fmt: skip
    options = {"chunk_size": 8, "headdim": p, "ngroups": g}
    if norm is not None:
        inputs["rmsnorm_weight"] = rand(d_ssm)
        options["norm_before_gate"] = norm
    found = gradients(mamba_split_conv1d_scan_combined, inputs, **options)
    reference = gradients(mamba_split_conv1d_scan_ref, inputs, **options)
    if norm is None:
        assert_same(found, reference)
    else:  # the original norms in groups, its reference does not
        assert relative_error(found[0], reference[0]) > 0.1
        bare = {k: t for k, t in inputs.items() if not k.startswith(("outproj", "rmsnorm"))}
        z, rest = bare["zxbcdt"].split([d_ssm, width + h], -1)
        bare["zxbcdt"] = torch.cat([torch.full_like(z, 1e4), rest], -1)  # silu(z) is z
        y = mamba_split_conv1d_scan_ref(**bare, **(options | {"norm_before_gate": True})) / 1e4
        y = rmsnorm_fn(y, inputs["rmsnorm_weight"], None, z, 1e-6, d_ssm // g, norm)
        assert relative_error(found[0], F.linear(y, inputs["outproj_weight"], inputs["outproj_bias"])) < 1e-5
        one = options | {"ngroups": 1}
        assert_same(
            *(gradients(f, inputs, **one) for f in (mamba_split_conv1d_scan_combined, mamba_split_conv1d_scan_ref))
        )
    y, final = mamba_split_conv1d_scan_combined(**inputs, **options, return_final_states=True)
    assert relative_error(y, found[0]) == close and final.shape == (b, h, p, n)
    if norm is None:
        z, xBC, dt = inputs["zxbcdt"].split([d_ssm, width, h], -1)
        names = ("conv1d_weight", "conv1d_bias")
        y = mamba_conv1d_scan_ref(
            xBC, *(inputs[k] for k in names), dt, inputs["A"], 8, inputs["D"], z, inputs["dt_bias"], True, ngroups=g
        )
        assert relative_error(F.linear(y, inputs["outproj_weight"], inputs["outproj_bias"]), found[0]) == close
    with pytest.raises(UserError, match="headdim must be given"):
        mamba_split_conv1d_scan_combined(**inputs, chunk_size=8)


@pytest.mark.parametrize("group_size", [None, 4])
@pytest.mark.parametrize("before", [True, False])
def test_gated_norms(group_size, before):
    x, z, weight, bias = rand(2, 3, 8), rand(2, 3, 8), rand(8), rand(8)
    options = {"z": z, "eps": 1e-5, "group_size": group_size, "norm_before_gate": before}
    assert relative_error(rmsnorm_fn(x, weight, bias, **options), rms_norm_ref(x, weight, bias, **options)) == close
    gate = F.silu(z)
    groups = (x if before else x * gate).unflatten(-1, (-1, group_size or 8))
    expected = F.layer_norm(groups, groups.shape[-1:], eps=1e-5).flatten(-2) * weight + bias
    expected = expected * gate if before else expected
    assert relative_error(layernorm_fn(x, weight, bias, **options), expected) == close


def test_norms_behind_a_residual():
    x, residual, x1, weight, bias = rand(2, 3, 8), rand(2, 3, 8), rand(2, 3, 8), rand(8), rand(8)
    y, total = layer_norm_fn(x, weight, bias, residual, x1=x1, prenorm=True, rowscale=torch.full((2, 3), 2.0))
    assert relative_error(total, 2 * x + x1 + residual) == close
    assert relative_error(y, F.layer_norm(total, (8,), weight, bias, 1e-6)) == close
    first, second = rms_norm_fn(x, weight, None, weight1=2 * weight)
    assert relative_error(second, 2 * first) == close
    half = x.bfloat16()
    y, total = RMSNorm(8)(half, half, prenorm=True, residual_in_fp32=True)
    assert y.dtype == total.dtype == torch.bfloat16  # a residual keeps its dtype
    assert RMSNorm(8)(half, prenorm=True, residual_in_fp32=True)[1].dtype == torch.float32
    linear = rand(5, 8)
    y = layer_norm_linear_fn(x, weight, bias, linear, None, is_rms_norm=True)
    assert relative_error(y, rms_norm_fn(x, weight, bias) @ linear.mT) == close
    ones = torch.ones(2, 3, 8)
    _, total, mask, none = rms_norm_fn(ones, weight, None, dropout_p=0.5, prenorm=True, return_dropout_mask=True)
    assert torch.equal(total, 2.0 * mask) and none is None and 0 < mask.sum() < 48
    torch.manual_seed(0)
    assert not torch.equal(rms_norm_fn(x, weight, None, dropout_p=0.5), rms_norm_fn(x, weight, None))


class Memory:
    """What the original's generation hands to its blocks."""

    def __init__(self):
        self.key_value_memory_dict, self.seqlen_offset = {}, 0


def test_block_decodes_what_it_computes_at_once():
    block = Mamba(8, d_state=4, layer_idx=3, dt_init="constant", dt_scale=0.5).eval()
    u, memory = rand(b, 9, 8), Memory()
    assert len(block.dt_proj.weight.detach().unique()) == 1
    with torch.no_grad():
        whole = block(u)
        parts = [block(u[:, :5], memory)]
        conv, _ = memory.key_value_memory_dict[3]
        assert conv.shape == (b, 16, 4)
        x = block.in_proj(u)[..., :16].mT
        assert relative_error(conv, x[..., 1:5]) == close, "all d_conv inputs, newest last"
        for t in range(5, 9):
            memory.seqlen_offset = t
            parts.append(block(u[:, t : t + 1], memory))
        assert relative_error(conv, x[..., 5:9]) == close
    assert relative_error(torch.cat(parts, dim=1), whole) == close
    with pytest.raises(UserError, match="one token at a time"):
        block.step(u, *block.allocate_inference_cache(b, 9))
    with pytest.raises(UserError, match="dt_init"):
        Mamba(8, dt_init="zeros")
    with pytest.raises(UserError, match="layer_idx"):
        Mamba(8)(u, Memory())


def test_block_has_the_originals_parameters():
    shapes = {k: tuple(t.shape) for k, t in Mamba(8, d_state=4, dtype=torch.bfloat16).state_dict().items()}
    assert shapes == {
        "A_log": (16, 4), "D": (16,), "in_proj.weight": (32, 8), "conv1d.weight": (16, 1, 4), "conv1d.bias": (16,),
        "x_proj.weight": (9, 16), "dt_proj.weight": (16, 1), "dt_proj.bias": (16,), "out_proj.weight": (8, 16),
    }  # fmt: skip
    block = Mamba(8, dtype=torch.bfloat16)
    assert block.in_proj.weight.dtype == torch.bfloat16 and block.A_log.dtype == torch.float32


@pytest.mark.parametrize("backend", [None, "chunked"])
def test_passes_apart(backend, monkeypatch):
    if backend:
        monkeypatch.setenv("SSMLAB_BACKEND", backend)
    i = scan_inputs()
    y, *expected = gradients(selective_scan_ref, i, delta_softplus=True)
    names = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")
    du, ddelta, dA, dB, dC, dD, dz, dbias = (expected[list(i).index(name)] for name in names)
    dout = torch.linspace(-1, 1, y.numel()).view(y.shape)
    u, delta, A, B, C, D, z, bias = (i[name] for name in names)
    out, x, gated = selective_scan_cuda.fwd(u, delta, A, B, C, D, z, bias, True)
    assert relative_error(gated, y) == close
    assert (
        relative_error(x[:, :, -1, 1::2], selective_scan_fn(**i, delta_softplus=True, return_last_state=True)[1]) < 1e-6
    )
    found = selective_scan_cuda.bwd(u, delta, A, B, C, D, z, bias, dout, x, out, None, True, True)
    assert_same(found, [du, ddelta, dA, dB, dC, dD, dbias, dz, y])

    del i["z"]
    y, *expected = gradients(selective_scan_ref, i, delta_softplus=True)
    out, x = selective_scan_cuda_core.fwd(u, delta, A, B, C, D, bias, True, 1)
    assert relative_error(out, y) == close
    assert_same(selective_scan_cuda_core.bwd(u, delta, A, B, C, D, bias, dout, x, True, 1), expected)
    older, x = selective_scan_cuda_core.fwd(u, delta, A, B, C, D, bias, True)  # copies from before `nrows`
    assert torch.equal(older, out)
    assert_same(selective_scan_cuda_core.bwd(u, delta, A, B, C, D, bias, dout, x, True), expected)
    half, _ = selective_scan_cuda_oflex.fwd(u.half(), delta, A, B, C, D, bias, True, 1, True)
    assert half.dtype == torch.float32
    assert selective_scan_cuda_oflex.fwd(u.half(), delta, A, B, C, D, bias, True, 1, False)[0].dtype == torch.float16

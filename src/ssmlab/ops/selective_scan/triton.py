"""The selective scan in Triton on a GPU: states recomputed in the backward pass, no atomics, any strides."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ssmlab.ops import _triton
from ssmlab.ops._triton import ceil, launch, power, restarts, vector
from ssmlab.ops.selective_scan.operator import KernelScan, call

# By bytes of an element: tokens and channels of the backward pass's tile, and warps; the forward pass saves the states
# before as many tokens. A lane loads 16 bytes; it has two channels, whose gradients of B and C it adds up by itself.
# Not measured.
TILES = {2: (64, 8, 1), 4: (32, 8, 1)}
WARPS = 2048  # four for every scheduler of an H200: with fewer a channel's tile is spread over more lanes
FEW = 512  # with fewer warps time is cut into segments, at the price of another pass
TURNS = 8  # tiles of channels that a program of the backward pass takes at most, adding up their gradients of B and C
LOG2E = 1.4426950408889634
# Of a thread, so that a multiprocessor has 12 warps, in the backward pass 10. Channels side by side, whose tiles change
# their layout, need more: there as many are taken as there are.
REGISTERS, BACKWARD_REGISTERS = 168, 200
OFFSETS = 2**31  # what the kernels count to within a row
STATES = 16  # that the forward pass keeps in registers; more of them are taken in turns


class View(NamedTuple):
    """A tensor and the strides with which its tokens are walked through: (b, d, line, token), of a map (b, g, n,
    token)."""

    tensor: Tensor
    strides: tuple[int, ...]


class Form(NamedTuple):
    """What a scan is besides its tensors."""

    b: int
    d: int
    l: int
    n: int
    groups: int = 1
    line: int = 0  # tokens of a line of a map, 0 without lines
    softplus: bool = False
    constant: tuple[bool, bool] = (False, False)  # B, C
    add: bool = False  # y, and in the backward pass gx, are added to

    def tile(self, dtype: torch.dtype) -> tuple[int, int, int]:
        """Tokens, channels and warps of the backward pass; the tokens are those between saved states. Where there are
        many channels it takes twice as many and half the tokens: less exchange between lanes."""
        tokens, channels, warps = TILES[dtype.itemsize]
        if self.b * self.d >= 8 * WARPS:
            tokens, channels = tokens // 2, 2 * channels
        if self.l < tokens:  # asked first: a power of a symbolic length would ask for its value
            tokens = power(self.l, 16 // dtype.itemsize)
        return tokens, channels, warps

    def forward_tile(self, x: View) -> tuple[int, int, int]:
        """Tokens, channels and warps of the forward pass. Where a lane has all tokens of a channel's tile the scan
        needs no exchange; lanes are added until there are half of `WARPS`. Where channels lie side by side in memory it
        stays one. Programs of one warp are spread best."""
        chunk, lane = self.tile(x.tensor.dtype)[0], 16 // x.tensor.dtype.itemsize
        tokens, width = lane, power(self.d // self.groups)
        while tokens < chunk and x.strides[-1] == 1 and self.b * self.d * tokens < 16 * WARPS * lane:
            tokens *= 2
        channels = 32 * lane // tokens
        if channels > width:
            tokens, channels = min(chunk, 32 * lane // width), width
        return tokens, channels, 1

    def turns(self, dtype: torch.dtype) -> int:
        """Tiles of channels of a program of the backward pass. Its sums over channels are written and read again, in
        float32 for every state and token: more turns, fewer sums, as long as enough warps are left."""
        _, channels, warps = self.tile(dtype)
        blocks, chunks, segments, _ = self.cut(dtype, channels, warps, WARPS // 2)
        there, wanted = self.b * self.groups * blocks * warps, WARPS // 2
        if segments > 1:
            there, wanted = there * chunks, WARPS
        turns = 1
        while turns < TURNS and blocks % (2 * turns) == 0 and there >= 2 * turns * wanted and not all(self.constant):
            turns *= 2
        return turns

    def cut(self, dtype: torch.dtype, channels: int, warps: int, enough: int) -> tuple[int, int, int, int]:
        """(programs of a group, chunks, segments, chunks of a segment) where a program has as many channels and warps:
        one segment where there are `enough` warps, else as many as make them `WARPS`."""
        chunks, blocks = ceil(self.l, self.tile(dtype)[0]), ceil(self.d // self.groups, channels)
        there = max(1, self.b * blocks * self.groups * warps)
        wanted = 1 if there >= enough else min(chunks, max(1, WARPS // there))
        each = ceil(chunks, wanted) if chunks else 0
        return blocks, chunks, ceil(chunks, each) if chunks else 0, each


class Arguments(NamedTuple):
    """The tensors of a scan as the kernels take them; the parameters in float32."""

    x: View
    dt: View
    z: View | None
    B: View
    C: View
    rates: Tensor
    D: Tensor | None
    bias: Tensor | None
    restart: Tensor | None


def unusable(tensors: tuple[Tensor | None, ...]) -> str | None:
    """Why this call cannot run here, or None."""
    if len(tensors) > 4:
        grouped = {t.shape[1] for t in tensors[3:5] if t is not None and t.dim() == 4}
        if len(grouped - {1}) > 1:
            return "B and C have different numbers of groups"
        if tensors[2] is not None and tensors[2].is_complex():
            return "A is complex; the kernels take real states"
    if any(t is not None and t[:1].numel() >= OFFSETS for t in (*tensors[:1], *tensors[3:5])):
        return f"a row of x, B or C has {OFFSETS:,} numbers or more, the kernels count up to there"
    return _triton.unusable(tensors)


def forward(*arguments):
    """See the contract in `ssmlab.ops.selective_scan`."""
    return call("triton", differentiable, *arguments)


def differentiable(*arguments):
    """The kernels with their gradient."""
    return KernelScan.apply(*arguments, "triton")


def outputs(x: Tensor, A: Tensor, save: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Unfilled y, final state and saved states; also what the operator's fake kernel returns."""
    (b, d, l), n = x.shape, A.shape[1]
    saved = x.new_empty((b, ceil(l, Form(b, d, l, n).tile(x.dtype)[0]), n, d) if save else 0, dtype=torch.float32)
    return torch.empty_like(x), x.new_empty((b, d, n), dtype=torch.float32), saved


def scan_forward(x, dt, A, B, C, D, z, dt_bias, initial_state, seq_idx, *options, save):
    """(y, final state, the states before every chunk if `save`)."""
    y, final, saved = outputs(x, A, save)
    form, arguments = _prepare(x, dt, A, B, C, D, z, dt_bias, seq_idx, *options)
    if form.l == 0:
        return y, final.zero_() if initial_state is None else final.copy_(initial_state), saved
    start = None if initial_state is None else initial_state.float().mT
    run_forward(form, arguments, flat(y), start, final, saved if save else None)
    return y, final, saved


def scan_backward(gy, g_final, saved, x, dt, A, B, C, D, z, dt_bias, initial_state, seq_idx, *options):
    """Gradients of (x, dt, A, B, C, D, z, dt_bias, initial_state); those of absent arguments are empty."""
    gx, gdt = torch.empty_like(x), torch.empty_like(dt)
    gz = x.new_empty(0) if z is None else torch.empty_like(z)
    form, arguments = _prepare(x, dt, A, B, C, D, z, dt_bias, seq_idx, *options)
    gh0 = torch.zeros(form.b, form.d, form.n, dtype=torch.float32, device=x.device)
    if form.l == 0 and g_final is not None:
        gh0.copy_(g_final)
    g_final = None if g_final is None else g_final.float().mT
    gz_ = None if z is None else flat(gz)
    gA, gB, gC, gD, gbias = run_backward(form, arguments, flat(gy), flat(gx), flat(gdt), gz_, saved, g_final, gh0)
    gB, gC = _map_gradient(gB, B), _map_gradient(gC, C)
    absent = x.new_empty(0)
    gD = absent if D is None else gD.to(D.dtype)
    gbias = absent if dt_bias is None else gbias.to(dt_bias.dtype)
    gh0 = absent if initial_state is None else gh0.to(initial_state.dtype)
    return gx, gdt, gA.to(A.dtype), gB, gC, gD, gz, gbias, gh0


def run_forward(form: Form, given: Arguments, y: View, start: Tensor | None, final: Tensor, saved: Tensor | None):
    """Fill y, the final state (b, d, n) and the states before every chunk, from `start` (b, n, d)."""
    from ssmlab.ops.selective_scan import triton_forward as kernels

    b, d, l, n = form[:4]
    x = given.x.tensor
    (tokens, channels, warps), lane = form.forward_tile(given.x), 16 // x.dtype.itemsize
    blocks, chunks, segments, each = form.cut(x.dtype, channels, warps, FEW)
    views = (given.x, given.dt, given.z or given.x, y, given.B, given.C)
    data, held = [view.tensor for view in views] + _parameters(given), min(n, STATES)
    sizes = (d, l, n, form.line, d // form.groups, blocks, chunks, each)
    numbers = [*sizes, *(stride for view in views for stride in view.strides)]
    grid, slots = (b * form.groups * blocks, segments), 1 if n <= STATES else 2
    options = _options(form, given, tokens, channels) | {
        "EXACT": n <= STATES, "TILES": form.tile(x.dtype)[0] // tokens, "CHANNELS": channels, "LANES": tokens // lane,
        "EACH": lane, "STATES": held, "num_warps": warps, **_limited(given.x, REGISTERS),
    }  # fmt: skip
    options["WHOLE"] &= n <= STATES or n % STATES == 0
    before = _room(x, b, slots * segments, n, d)
    if segments > 1:
        ends, decay, nothing = _room(x, b, segments, n, d), _room(x, b, segments, n, d), torch.zeros_like(before)
        launch(
            kernels.scan_forward, grid, *data, nothing, ends, ends, decay, *numbers, segments * n * d, n * d, 1, d,
            **options, ADD=False, SAVE=False, ENDS=True,
        )  # fmt: skip
        _carry(ends, decay, start, before, slots, reverse=False)
    else:
        before[:, 0] = 0.0 if start is None else start
    launch(
        kernels.scan_forward, grid, *data, before, final if saved is None else saved, final, final, *numbers, d * n, 0,
        n, 1, **options, ADD=form.add, SAVE=saved is not None, ENDS=False,
    )  # fmt: skip


def run_backward(
    form: Form, given: Arguments, gy: View, gx: View, gdt: View, gz: View | None, saved: Tensor, g_final: Tensor | None,
    gh0: Tensor,
):  # fmt: skip
    """Fill gx, gdt, gz and gh0 (b, d, n), and return the gradients of A, B, C, D and the bias in float32: of maps per
    token (b, g, n, l), of constant ones (d, n). `g_final` is (b, n, d)."""
    from ssmlab.ops.selective_scan import triton_backward as kernels

    b, d, l, n = form[:4]
    x = given.x.tensor
    tokens, channels, warps = form.tile(x.dtype)
    turns, tiles = form.turns(x.dtype), ceil(d // form.groups, channels)
    blocks, chunks, segments, each = form.cut(x.dtype, channels * turns, warps, WARPS // 2)
    programs = form.groups * blocks
    gA, gD, gbias = _room(x, b, chunks, n, d), _room(x, b, chunks, d), _room(x, b, chunks, d)
    gB, gC = (_room(x, b, chunks, n, d) if constant else _room(x, b, programs, n, l) for constant in form.constant)
    views = (given.x, given.dt, given.z or given.x, gy, gx, gdt, gz or gx, given.B, given.C)
    data = [view.tensor for view in views] + _parameters(given) + [saved]
    sums, sizes = (gA, gB, gC, gD, gbias), (d, l, n, form.line, d // form.groups)
    strides = [stride for view in views for stride in view.strides]
    lane = 16 // x.dtype.itemsize
    groups = min(channels, max(1, 32 * warps * lane // tokens))
    options = _options(form, given, tokens, channels) | {
        "CHANNELS": channels, "GROUPS": groups, "LANES": tokens // lane, "EACH": lane, "num_warps": warps,
        **_limited(given.x, BACKWARD_REGISTERS),
    }  # fmt: skip
    after = _room(x, b, 2 * segments, n, d)
    if segments > 1:
        firsts, decay, slots = _room(x, b, segments, n, d), _room(x, b, segments, n, d), torch.zeros_like(after)
        launch(
            kernels.scan_backward, (b * form.groups * tiles, segments), *data, slots, firsts, decay, *sums, *sizes,
            tiles, chunks, each, 1, *strides, segments * n * d, n * d, 1, d, **options, ADD=False, ENDS=True,
        )  # fmt: skip
        _carry(firsts, decay, g_final, after, 2, reverse=True)
    elif segments:
        after[:, 0] = 0.0 if g_final is None else g_final
    launch(
        kernels.scan_backward, (b * programs, segments), *data, after, gh0, gh0, *sums, *sizes, blocks, chunks, each,
        turns, *strides, d * n, 0, n, 1, **options, ADD=form.add, ENDS=False,
    )  # fmt: skip
    gB, gC = (
        g.sum((0, 1)).mT if constant else g.unflatten(1, (form.groups, blocks)).sum(2)
        for g, constant in zip((gB, gC), form.constant, strict=True)
    )
    return gA.sum((0, 1)).mT.contiguous(), gB, gC, gD.sum((0, 1)), gbias.sum((0, 1))


def flat(t: Tensor) -> View:
    """(b, d, l)."""
    return View(t, (t.stride(0), t.stride(1), 0, t.stride(2)))


def _prepare(x, dt, A, B, C, D, z, dt_bias, seq_idx, dt_softplus) -> tuple[Form, Arguments]:
    groups = max(map_.shape[1] if map_.dim() == 4 else 1 for map_ in (B, C))
    (b, d, l), constant = x.shape, (B.dim() == 2, C.dim() == 2)
    form = Form(b, d, l, A.shape[1], groups, softplus=dt_softplus, constant=constant)
    z = None if z is None else flat(z)
    D, dt_bias, tokens = vector(D), vector(dt_bias), form.tile(x.dtype)[0]
    B_, C_ = (map_view(map_, x, tokens) for map_ in (B, C))
    return form, Arguments(flat(x), flat(dt), z, B_, C_, rates(A), D, dt_bias, restarts(seq_idx))


def rates(A: Tensor) -> Tensor:
    """(n, d), of powers of two."""
    return (A.float() * LOG2E).mT.contiguous()


def map_view(map_: Tensor, x: Tensor, tokens: int) -> View:
    """B or C, small and read for every channel: (b, g, n, token), of a constant one the first stride is that of the
    channels. Where x has tokens side by side in memory, maps of float32 spare the kernels their conversion; elsewhere
    it is the maps whose dtype tells the compiler how many tokens a lane has. They end with zeros to a multiple of
    `tokens` and of 16, so that the kernels load them 16 bytes at once, and unasked, whatever the length."""
    if map_.dim() == 2:
        return View(map_, (map_.stride(0), 0, map_.stride(1), 0))
    map_ = map_.float() if x.stride(-1) == 1 else map_
    map_ = F.pad(map_, (0, -map_.shape[-1] % max(tokens, 16))).contiguous()
    strides = map_.stride()
    return View(map_, (strides[0], strides[1] if map_.dim() == 4 and map_.shape[1] > 1 else 0, *strides[-2:]))


def _map_gradient(gradient: Tensor, map_: Tensor) -> Tensor:
    """(b, g, n, l), or (d, n), in the shape and dtype of B or C."""
    if map_.dim() == 3 or (map_.dim() == 4 and map_.shape[1] == 1):
        gradient = gradient.sum(1, keepdim=map_.dim() == 4)
    return gradient.to(map_.dtype).contiguous()


def _parameters(given: Arguments) -> list[Tensor]:
    """Kernels take no None: the rates stand for what is absent, and are not read."""
    return [given.rates if t is None else t for t in (given.rates, given.D, given.bias, given.restart)]


def _options(form: Form, given: Arguments, tokens: int, channels: int) -> dict:
    present = {"SKIP": given.D, "GATE": given.z, "BIAS": given.bias, "RESTART": given.restart}
    return {
        **{name: t is not None for name, t in present.items()},
        "SOFTPLUS": form.softplus, "CONSTANT_B": form.constant[0], "CONSTANT_C": form.constant[1],
        "LINES": form.line > 0, "WHOLE": form.l % tokens == 0 and form.d // form.groups % channels == 0,
    }  # fmt: skip


def _limited(x: View, registers: int) -> dict[str, int]:
    return {"maxnreg": registers} if x.strides[-1] == 1 else {}


def _room(x: Tensor, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float32, device=x.device)


def _carry(local: Tensor, decay: Tensor, start: Tensor | None, out: Tensor, slot: int, *, reverse: bool) -> None:
    """Write what is before (or after) every segment into every `slot`-th state of `out` (b, slots, n, d)."""
    from ssmlab.ops.selective_scan import triton_parts as kernels

    b, segments, n, d = local.shape
    start = torch.zeros_like(local[:, 0]) if start is None else start.contiguous()
    launch(
        kernels.carry, (ceil(n * d, 256), b), local, decay, start, out, segments, n * d, out.stride(0),
        slot * out.stride(1), REVERSE=reverse, BLOCK=256,
    )  # fmt: skip

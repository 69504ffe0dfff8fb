"""Triton's kernels in the instructions of Hopper (PTX), carried out in numpy on tensors of the CPU.

The interpreter shows what a kernel says; this, what the compiler made of it: layouts, vectors, barriers. A warp is 32
lanes that go together, so branches must be uniform. The warps of a program run one after the other, each up to the next
barrier, first to last or last to first: without a barrier, one of the two orders gives other numbers. Every address
must lie within the tensors of a launch, on a multiple of what is moved. NotImplementedError tells what is not here.
"""

import re
import runpy
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from ops.ptx_numbers import ALL, COMPUTED, KINDS, LANES, WIDE, Instruction
from ssmlab.ops import _triton_steps  # noqa: F401  all modules that launch are loaded now

triton = pytest.importorskip("triton")
BENCHMARK = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "kernels.py"))
REGISTERS = {"p": np.bool_, "rs": np.uint16, "r": np.uint32, "f": np.uint32, "rd": np.uint64}
SPECIAL: dict[str, Callable] = {
    "%tid.x": lambda warp: warp.threads,
    "%laneid": lambda warp: LANES,
    "global_smem": lambda warp: np.zeros(32, np.uint32),
    **{f"%ctaid.{axis}": lambda warp, k=k: np.full(32, warp.program.place[k]) for k, axis in enumerate("xyz")},
    **{f"%nctaid.{axis}": lambda warp, k=k: np.full(32, warp.program.grid[k]) for k, axis in enumerate("xyz")},
}


class Fault(AssertionError):
    """What a GPU would do wrong, or not at all."""


class Warp:
    """The registers of 32 lanes, as unsigned numbers, and the place in the code."""

    def __init__(self, program: "Program", number: int):
        self.program, self.threads, self.at = program, 32 * number + LANES, 0
        self.registers: dict[str, np.ndarray] = {}
        self.copies: list[list[tuple]] = [[]]  # not waited for, by group

    def read(self, operand: str, kind: type) -> np.ndarray:
        """Of a register, of one of the machine's own, or a constant. What nothing has written has all bits set."""
        if operand in SPECIAL:
            return SPECIAL[operand](self).astype(kind)
        if "_param_" in operand:
            operand = str(self.program.arguments[int(operand.strip("[]").rpartition("_")[2])])
        if not operand.startswith("%"):
            return constant(operand, kind)
        value = self.registers.get(operand)
        value = ~np.zeros(32, held(operand)) if value is None else value
        return (value.astype(unsigned(kind)) if value.dtype.itemsize > unsigned(kind).itemsize else value).view(kind)

    def write(self, register: str, value: np.ndarray, lanes: np.ndarray) -> None:
        """A narrower number is extended, by its sign if it has one."""
        kind = held(register)
        if value.dtype.itemsize < np.dtype(kind).itemsize:
            value = value.astype(f"{'i' if value.dtype.kind == 'i' else 'u'}{np.dtype(kind).itemsize}")
        value = value.view(kind)
        self.registers[register] = value if lanes is ALL else np.where(lanes, value, self.read(register, kind))

    def run(self) -> str | None:
        """Up to the next barrier, which it gives with its place, or to the end."""
        code = self.program.code
        while self.at < len(code):
            i = code[self.at]
            self.at += 1
            lanes = ALL if i.guard is None else self.read(i.guard, np.bool_) ^ i.unless
            try:
                stops = ACTIONS[i.parts[0]](self, i, lanes)
            except (KeyError, ValueError) as error:
                raise NotImplementedError(i.text) from error
            if stops:
                return f"{self.at}: {i.text}"
        return None


class Program(NamedTuple):
    """A compiled kernel, and what its warps share, at a place in a grid."""

    name: str
    warps: int
    code: list[Instruction]
    labels: dict[str, int]
    arguments: list[int]
    shared: dict[int, np.ndarray]
    memory: dict[int, np.ndarray]
    place: tuple[int, ...]
    grid: tuple[int, ...]

    def run(self, order: int) -> None:
        warps = [Warp(self, number) for number in range(self.warps)][::order]
        while (places := {warp.run() for warp in warps}) != {None}:
            if len(places) > 1:
                raise Fault(f"{self.name}: warps wait at different barriers, or for ended ones: {places}")

    def bytes_at(self, addresses: np.ndarray, width: int, shared: bool, text: str) -> tuple[np.ndarray, np.ndarray]:
        """A tensor's bytes, or the shared ones, and the indices of `width` of them from each address."""
        first, last = int(addresses.min()), int(addresses.max())
        if (addresses % width).any():
            raise Fault(f"{text}: not a multiple of {width} among the addresses {first:#x} to {last:#x}")
        for start, data in (self.shared if shared else self.memory).items():
            if start <= first and last + width <= start + len(data):
                return data, (addresses - start)[:, None] + np.arange(width)
        raise Fault(f"{text}: {width} bytes at {first:#x} to {last:#x} are in no tensor")


@lru_cache(None)
def unsigned(kind: type) -> np.dtype:
    return np.dtype(f"u{np.dtype(kind).itemsize}")


@lru_cache(None)
def held(register: str) -> type:
    """What a register of this name holds."""
    return REGISTERS[register.strip("%0123456789")]


@lru_cache(None)
def constant(text: str, kind: type) -> np.ndarray:
    number = int(text[2:], 16) if text.startswith("0f") else int(text.rstrip("U"), 0)
    if kind is np.bool_:
        return np.full(32, number != 0)
    return np.full(32, number % (1 << 8 * unsigned(kind).itemsize), unsigned(kind)).view(kind)


def compute(warp: Warp, i: Instruction, lanes: np.ndarray) -> None:
    """Numbers of registers into a register."""
    (target, *sources), (function, kinds, _) = i.operands, COMPUTED[i.parts[0]]
    if i.parts[:2] == ("mad", "wide"):
        kinds = (None, None, WIDE[i.kind])
    kinds = [kind or i.kind for kind in kinds] or [i.kind] * len(sources)
    warp.write(target, function(i, *map(warp.read, sources, kinds)), lanes)


def move(warp: Warp, i: Instruction, lanes: np.ndarray) -> None:
    """One register's halves or quarters into others, or others into one; else a number."""
    target, source = map(braced, i.operands)
    if len(target) == len(source) == 1:
        return compute(warp, i, lanes)
    given = np.stack([warp.read(name, held(name)) for name in source], 1)
    for name, part in zip(target, given.view(held(target[-1] if target[0] == "_" else target[0])).T):
        if name != "_":
            warp.write(name, part.copy(), lanes)
    return None


@lru_cache(None)
def braced(operand: str) -> tuple[str, ...]:
    """`{a, b}`"""
    return tuple(name.strip() for name in operand.strip("{} ").split(","))


def located(warp: Warp, operand: str, shared: bool) -> np.ndarray:
    """`[base + offset]`"""
    base, _, offset = operand.strip("[] ").partition("+")
    return warp.read(base.strip(), np.uint32 if shared else np.uint64).astype(np.int64) + int(offset or 0)


def load_or_store(warp: Warp, i: Instruction, lanes: np.ndarray) -> None:
    if i.parts[1] == "param":
        return warp.write(i.operands[0], warp.read(i.operands[1], i.kind), lanes)
    loads, shared = i.parts[0] == "ld", {"global": False, "shared": True}[i.parts[1]]
    registers, addresses = braced(i.operands[not loads]), located(warp, i.operands[loads], shared)[lanes]
    if not lanes.any():
        return None
    data, places = warp.program.bytes_at(addresses, len(registers) * unsigned(i.kind).itemsize, shared, i.text)
    if not loads:
        data[places] = np.stack([warp.read(name, i.kind)[lanes] for name in registers], 1).view(np.uint8)
        return None
    found = np.zeros((32, len(registers)), i.kind)
    found[lanes] = data[places].view(i.kind)
    for register, column in zip(registers, found.T):
        warp.write(register, column.copy(), lanes)
    return None


def move_matrices(warp: Warp, i: Instruction, lanes: np.ndarray) -> None:
    """`ldmatrix` and `stmatrix`: eight rows of 16 bytes, whose addresses eight lanes have, for each register."""
    loads, turned = i.parts[0] == "ldmatrix", "trans" in i.parts
    addresses = located(warp, i.operands[loads], True).reshape(4, 8)
    for register, eight in zip(braced(i.operands[not loads]), addresses):
        data, places = warp.program.bytes_at(eight, 16, True, i.text)
        rows = (data[places] if loads else warp.read(register, np.uint32).reshape(8, 4)).view(np.uint16)
        rows = np.ascontiguousarray(rows.T if turned else rows)
        if loads:
            warp.write(register, rows.view(np.uint32).reshape(32), lanes)
        else:
            data[places] = rows.view(np.uint8)


def copy(warp: Warp, i: Instruction, lanes: np.ndarray) -> None:
    """`cp.async` into shared memory, done as late as may be: when it is waited for. A size of 0 gives zeros."""
    if i.parts[2] == "commit_group":
        return warp.copies.append([])
    if i.parts[2] != "wait_group":
        width, size = int(i.operands[2], 0), warp.read(i.operands[-1], np.uint32)
        if i.parts[3:] != ("shared", "global") or not np.isin(size[lanes], (0, width)).all():
            raise NotImplementedError(i.text)
        into, origin = located(warp, i.operands[0], True), located(warp, i.operands[1], False)
        if lanes.any():
            warp.copies[-1].append((into[lanes], origin[lanes], size[lanes] > 0, width, i.text))
        return None
    while len(warp.copies) > int(i.operands[0]) + 1:
        for into, origin, full, width, text in warp.copies.pop(0):
            data, places = warp.program.bytes_at(into, width, True, text)
            data[places] = 0
            if full.any():
                values, origins = warp.program.bytes_at(origin[full], width, False, text)
                data[places[full]] = values[origins]
    return None


def branch(warp: Warp, i: Instruction, lanes: np.ndarray) -> None:
    if lanes.any() != lanes.all():
        raise Fault(f"{i.text}: some lanes go and some do not")
    if lanes.any():
        warp.at = warp.program.labels[i.operands[0]] if i.operands else len(warp.program.code)


# What an instruction does to a warp; true where it must wait.
ACTIONS: dict[str, Callable] = {
    **dict.fromkeys(COMPUTED, compute), "mov": move, "ld": load_or_store, "st": load_or_store,
    "ldmatrix": move_matrices, "stmatrix": move_matrices, "cp": copy, "bra": branch, "ret": branch,
    "bar": lambda warp, i, lanes: i.parts[1] != "warp",  # whose lanes go together
}  # fmt: skip


def parsed(ptx: str) -> tuple[list[Instruction], dict[str, int]]:
    """The instructions of a module's only kernel, and the places of the labels."""
    text = ptx[ptx.index("{", ptx.index(".entry")) :].partition(".section")[0]
    text = re.sub(r"//.*|^\s*\..*", "", text, flags=re.MULTILINE)
    code, labels = [], {}
    for label, statement in re.findall(r"^\s*(\$\w+):|([@\w][^;\n]*);", text, re.MULTILINE):
        if label:
            labels[label] = len(code)
            continue
        unless, guard, name, rest = re.fullmatch(r"(?:@(!?)(%p\d+)\s+)?([\w.:]+)\s*(.*)", statement).groups()
        name = name.replace("shared::cta", "shared")  # the newer spelling, of Triton 3.8
        parts, operands = tuple(name.split(".")), tuple(re.findall(r"\{[^}]*\}|\[[^\]]*\]|[^,\s]+", rest))
        i = Instruction(statement, guard, bool(unless), parts, operands, KINDS.get(parts[-1]))
        known = COMPUTED[parts[0]][2] if parts[0] in COMPUTED else {*parts}
        odd = operands not in (("0",), ("-1",)) if parts[0] == "bar" else parts[0] == "fma" and parts[-1] != "f32"
        if parts[0] not in ACTIONS or not known >= {*parts[1:-1]} or odd:
            raise NotImplementedError(statement)
        code.append(i)
    return code, labels


@lru_cache(None)
def compiled(kernel, signature: tuple, constants: tuple, multiples: tuple, settings: tuple) -> tuple:
    """(name, warps, code, labels, bytes that the warps share)"""
    result = BENCHMARK["build"](kernel, dict(signature), dict(constants), multiples, dict(settings))
    about = result.metadata
    return about.name, about.num_warps, *parsed(result.asm["ptx"]), about.shared


def prepared(kernel, *arguments, **options) -> tuple[tuple, list[int]]:
    """The compiled kernel, and what its code gets of the arguments."""
    found = BENCHMARK["described"](kernel, arguments, options, lambda tensor: tensor.data_ptr() % 16 == 0)
    kinds = (tuple(d.items()) for d in (found.signature, found.constants))
    numbers = [value.data_ptr() if isinstance(value, torch.Tensor) else value for value in found.arguments]
    code = compiled(kernel, *kinds, tuple(found.multiples), tuple(found.settings.items()))
    return code, [*numbers, 0, 0]  # and two addresses of room that no kernel asked for


@contextmanager
def emulating(order: int) -> Iterator[list[str]]:
    """Within, the operators' Triton kernels take tensors of the CPU and run here, programs and warps first to last
    (`order` 1) or last to first (-1), and new memory is NaN. Gives the names of the kernels that were launched."""
    launched: list[str] = []

    def refused(tensors):
        return "float64" if any(t is not None and t.dtype == torch.float64 for t in tensors) else None

    def launch(kernel, grid, *arguments, **options):
        if 0 in grid:
            return
        (*code, size), numbers = prepared(kernel, *arguments, **options)
        launched.append(code[0])
        stored = [t.untyped_storage() for t in arguments if isinstance(t, torch.Tensor) and t.numel()]
        memory = {s.data_ptr(): torch.tensor([], dtype=torch.uint8).set_(s).numpy() for s in stored}
        grid = (*grid, 1, 1)[:3]
        with np.errstate(all="ignore"):
            for place in list(product(*map(range, grid)))[::order]:
                shared = {0: np.full(size, 0xFF, np.uint8)}
                Program(*code, numbers, shared, memory, place, grid).run(order)

    with ExitStack() as changes:
        changes.callback(torch.use_deterministic_algorithms, torch.are_deterministic_algorithms_enabled())
        torch.use_deterministic_algorithms(True)
        changes.enter_context(BENCHMARK["launching"](launch, refused))
        yield launched

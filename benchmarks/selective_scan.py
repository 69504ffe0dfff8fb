"""Time the selective scan against a loop over time, mambapy's parallel scan and torch.exp, all in one process.

python benchmarks/selective_scan.py [--repeats 15] [--threads 2] [--json FILE]

Correctness first: nothing is timed if the outputs disagree. Alternatives are interleaved, so that a change of the
machine's speed meets all of them; every figure is a median with its range, every ratio is within this run.
"""

import argparse
import json
import platform
import statistics
import time

import torch
from torch.nn import functional as F

from ssmlab.ops import _native, active_backend, selective_scan

SHAPE = {"b": 1, "d": 1536, "l": 2048, "n": 16}


def make_inputs(b, d, l, n):
    """Channel-contiguous float32, as nn.Linear produces it, with every optional argument."""
    torch.manual_seed(0)
    per_token = {name: torch.randn(b, l, d).mT for name in ("x", "dt", "z")}
    maps = {name: torch.randn(b, l, n).mT for name in "BC"}
    return per_token | maps | {"A": -torch.rand(d, n) * n, "D": torch.randn(d), "dt_bias": torch.randn(d) - 2}


def ours(x, dt, A, B, C, D, z, dt_bias):
    return selective_scan(x, dt, A, B, C, D, z=z, dt_bias=dt_bias, dt_softplus=True)[0]


def loop(x, dt, A, B, C, D, z, dt_bias):
    """What a plain install runs elsewhere: all decays at once, then one torch step a token."""
    delta = F.softplus(dt + dt_bias[:, None])
    decay = torch.exp(torch.einsum("bdl,dn->bdln", delta, A))
    added = torch.einsum("bdl,bnl->bdln", delta * x, B)
    h, ys = torch.zeros(x.shape[0], *A.shape), []
    for t in range(x.shape[2]):
        h = decay[:, :, t] * h + added[:, :, t]
        ys.append(torch.einsum("bdn,bn->bd", h, C[:, :, t]))
    return (torch.stack(ys, dim=2) + D[:, None] * x) * F.silu(z)


def mambapy(x, dt, A, B, C, D, z, dt_bias):
    """The same through mambapy's parallel scan."""
    from mambapy.pscan import pscan

    delta, B, C = F.softplus(dt + dt_bias[:, None]).mT, B.mT, C.mT
    decay, added = torch.exp(delta[..., None] * A), (delta * x.mT)[..., None] * B[:, :, None]
    y = (pscan(decay, added) @ C[..., None]).squeeze(-1)
    return (y.mT + D[:, None] * x) * F.silu(z)


def timed(calls: dict, repeats: dict[str, int]) -> dict[str, list[float]]:
    """Milliseconds of every call, in turns, after one call each to warm up."""
    times = {name: [] for name in calls}
    for call in calls.values():
        call()
    for turn in range(max(repeats.values())):
        for name, call in calls.items():
            if turn < repeats[name]:
                start = time.perf_counter()
                call()
                times[name].append(1e3 * (time.perf_counter() - start))
    return times


def check(inputs) -> float:
    """The error of our output against float64; raises where it is not what the tests demand."""
    short = {k: t[..., :64] if t.dim() == 3 else t for k, t in inputs.items()}
    exact = loop(**{k: t.double() for k, t in short.items()})
    errors = {name: float((f(**short) - exact).norm() / exact.norm()) for name, f in (("ours", ours), ("loop", loop))}
    assert errors["ours"] < 1e-6, errors
    return errors["ours"]


def gradients(f, inputs):
    leaves = {k: t.detach().requires_grad_() for k, t in inputs.items()}
    grad = torch.randn_like(inputs["x"])
    return lambda: torch.autograd.grad(f(**leaves), list(leaves.values()), grad)


def lengths(n: int, repeats: int) -> dict:
    """Nanoseconds a token at d = 64 for growing lengths, less those of x * 1.5, by number of threads."""
    found, before = {}, torch.get_num_threads()
    for threads in (1, before):
        torch.set_num_threads(threads)
        for l in (2**14, 2**17, 2**20):
            inputs = make_inputs(1, 64, l, n)
            x = inputs["x"]
            bare = {k: inputs[k] for k in ("x", "dt", "A", "B", "C")}
            calls = {"scan": lambda bare=bare: selective_scan(**bare), "scale": lambda x=x: x * 1.5}
            times = timed(calls, dict.fromkeys(calls, repeats))
            found[f"{threads} threads, l={l}"] = (min(times["scan"]) - min(times["scale"])) / l * 1e6
    torch.set_num_threads(before)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", help="write every figure to this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    inputs, few = make_inputs(**SHAPE), max(3, options.repeats // 5)
    error = check(inputs)
    backend = f"{active_backend('selective_scan')} ({_native.isa()})"
    print(f"backend {backend}, {options.threads} threads, torch {torch.__version__}")
    print("channel-contiguous inputs unless (b,d,l) is said")
    print(f"{platform.machine()}, shape {SHAPE}, error against float64 {error:.1e}\n")
    upstream = {k: t.contiguous() for k, t in inputs.items()}  # (b, d, l) contiguous, as the original code has it
    states = torch.randn(*SHAPE.values())
    out = torch.empty_like(states)
    forward = {
        "ours": lambda: ours(**inputs), "loop": lambda: loop(**inputs), "mambapy": lambda: mambapy(**inputs),
        "ours, (b,d,l)": lambda: ours(**upstream), "loop, (b,d,l)": lambda: loop(**upstream),
        "mambapy, (b,d,l)": lambda: mambapy(**upstream), "torch.exp of b*d*l*n": lambda: torch.exp(states, out=out),
    }  # fmt: skip
    repeats = {name: few if name.startswith(("loop", "mambapy")) else options.repeats for name in forward}
    with torch.no_grad():
        times = {"forward": timed(forward, repeats)}
    both = {"ours": gradients(ours, inputs), "mambapy": gradients(mambapy, inputs)}
    times["forward + backward"] = timed(both, {"ours": options.repeats, "mambapy": few})
    for what, row in times.items():
        base = statistics.median(row["ours"])
        for name, values in row.items():
            middle = statistics.median(values)
            spread = f"[{min(values):.1f}, {max(values):.1f}] n={len(values)}"
            print(f"{what:20} {name:22} {middle:9.1f} ms {spread:28} {middle / base:7.1f} x ours")
    forward_ms, both_ms = (statistics.median(times[k]["ours"]) for k in times)
    print(f"\nbackward alone (difference): {(both_ms - forward_ms) / forward_ms:.2f} x the forward")
    per_token = lengths(SHAPE["n"], few)
    for name, value in per_token.items():
        print(f"(1, 64, l, {SHAPE['n']}), {name}: {value:.1f} ns a token")
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"times_ms": times, "ns_per_token": per_token, "error": error}, file, indent=1)


if __name__ == "__main__":
    main()

"""transformers' Mamba and Mamba-2 (130m shape, random weights) on our kernels and on its own slow path.

Every measurement is a process of its own, since the kernels are chosen when the model file is imported; the two take
turns. `make bench-compat`, about 6 minutes on two cores; `--quick` leaves the slow path's training step out.
"""

import argparse
import statistics
import subprocess
import sys
import time

SIZES = {"hidden_size": 768, "num_hidden_layers": 24}
MODELS = {
    "mamba": {"vocab_size": 50280},
    "mamba2": {"vocab_size": 50288, "num_heads": 24, "head_dim": 64, "state_size": 128, "n_groups": 1},
}
PREFILL, TRAINED, DECODED = 1024, 256, 40  # tokens


def measure(name: str, what: str, ours: bool, repeats: int) -> None:
    """Print the seconds of every repeat, after a short call to warm up; of one token for decoding."""
    import torch

    if ours:
        import ssmlab.compat

        ssmlab.compat.install()
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **SIZES, **MODELS[name]))
    ids = torch.randint(0, 50000, (1, PREFILL))
    model.train(what == "train")

    def decode(count: int) -> float:
        begin = time.perf_counter()
        model.generate(ids[:, :8], max_new_tokens=count, min_new_tokens=count, do_sample=False)
        return time.perf_counter() - begin

    def call() -> float:
        begin = time.perf_counter()
        if what == "train":
            model.zero_grad()
            model(ids[:, :TRAINED], labels=ids[:, :TRAINED]).loss.backward()
        elif what == "prefill":
            model(ids)
        else:
            return (decode(DECODED + 2) - decode(2)) / DECODED
        return time.perf_counter() - begin

    with torch.set_grad_enabled(what == "train"):
        model(ids[:, :16])
        for _ in range(repeats):
            print(call(), flush=True)


def timed(name: str, what: str, ours: bool, repeats: int) -> list[float]:
    arguments = [sys.executable, __file__, "--measure", name, what, str(int(ours)), str(repeats)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    return [float(line) for line in done.stdout.split()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        name, what, ours, repeats = options.measure
        return measure(name, what, bool(int(ours)), int(repeats))
    for name in MODELS:
        for what in ("prefill", "decode", "train"):
            if options.quick and what == "train":
                continue
            found = {True: [], False: []}
            for _ in range(2):
                for ours in (True, False):
                    repeats = 3 if ours or what == "decode" or name == "mamba2" else 1
                    found[ours] += timed(name, what, ours, repeats)
            rows = {ours: (statistics.median(t), min(t), max(t), len(t)) for ours, t in found.items()}
            unit, scale = ("ms a token", 1e3) if what == "decode" else ("s", 1)
            text = "   ".join(
                f"{'ours' if ours else 'theirs'} {m * scale:.3g} {unit} [{a * scale:.3g}, {z * scale:.3g}] n={n}"
                for ours, (m, a, z, n) in rows.items()
            )
            print(f"{name:7} {what:8} {text}   {rows[False][0] / rows[True][0]:.2f} times as fast", flush=True)
    return None


if __name__ == "__main__":
    main()

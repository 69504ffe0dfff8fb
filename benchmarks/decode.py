"""Language models of the 130m shape with random weights: tokens per second of decoding and of reading a prompt.

Ours in float32, bfloat16 and int8, the same float32 model on plain torch (no kernels, torch's linear layers), and
transformers' model without our kernels. All in one process, in turns, so that a change of the machine's speed meets
everyone; medians with their range. `make bench-decode`, about 3 minutes on two cores.

llama.cpp takes its turns in processes of its own where its `llama-bench` and GGUF files of the shape are given:

    python benchmarks/decode.py --family mamba --llama-bench build/bin/llama-bench --gguf float32=f32.gguf \\
        --gguf bfloat16=bf16.gguf --gguf int8=q8_0.gguf

`convert_hf_to_gguf.py` of llama.cpp makes them from a model that `--save FOLDER` has written here.
"""

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import time

import torch

from ssmlab.checkpoints.files import save_language_model
from ssmlab.models import create_model
from ssmlab.nn import quantize_linear_
from ssmlab.ops import _native
from ssmlab.profiling import peak_memory

FAMILIES = ("mamba", "mamba2")
PREFILL, DECODED = 1024, 20  # tokens
SHAPES = {"mamba": {"vocab_size": 50280}, "mamba2": {"vocab_size": 50288, "num_heads": 24, "n_groups": 1}}


class Ours:
    """A model of ours. `plain`: without the kernels."""

    def __init__(self, model, plain: bool = False):
        self.model, self.plain = model.eval(), plain

    def read(self, ids):
        with plain_torch() if self.plain else contextlib.nullcontext():
            return self.model(ids, last_only=True)[1]

    def write(self, state, count: int):
        """`count` tokens, the likeliest each time."""
        token = torch.zeros(1, 1, dtype=torch.int64)
        with plain_torch() if self.plain else contextlib.nullcontext():
            for _ in range(count):
                logits, state = self.model(token, state)
                token = logits.argmax(-1)
        return state


class Theirs:
    """transformers' model, whose cache changes with every token."""

    def __init__(self, family: str):
        from transformers import AutoConfig, AutoModelForCausalLM

        sizes = SHAPES[family] | {"hidden_size": 768, "num_hidden_layers": 24}
        if family == "mamba2":
            sizes |= {"head_dim": 64, "state_size": 128}
        self.model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **sizes)).eval()

    def read(self, ids):
        """The cache, under the name that it has in the output and among the arguments; transformers renamed it."""
        from transformers import Cache

        output = self.model(ids, use_cache=True, logits_to_keep=1)
        ((name, cache),) = (pair for pair in output.items() if isinstance(pair[1], Cache))
        return {name: cache}

    def write(self, state, count: int):
        token = torch.zeros(1, 1, dtype=torch.int64)
        for _ in range(count):
            token = self.model(token, use_cache=True, **state).logits[:, -1:].argmax(-1)
        return state


class LlamaCpp:
    """llama.cpp's own measuring program on a file; it reads the file and warms up before every measurement."""

    def __init__(self, program: str, file: str, threads: int):
        self.command = [program, "-m", file, "-t", str(threads), "-r", "1", "-o", "json"]

    def speed(self, read: int, written: int) -> float:
        """Tokens per second."""
        done = subprocess.run(
            [*self.command, "-p", str(read), "-n", str(written)], capture_output=True, text=True, check=True
        )
        return json.loads(done.stdout)[0]["avg_ts"]


@contextlib.contextmanager
def plain_torch():
    """No kernels of ours: the operators in torch, F.linear in the layers."""
    before = os.environ.get("SSMLAB_BACKEND")
    os.environ["SSMLAB_BACKEND"] = "chunked"
    try:
        yield
    finally:
        del os.environ["SSMLAB_BACKEND"]
        if before is not None:
            os.environ["SSMLAB_BACKEND"] = before


def subjects(family: str, theirs: bool) -> dict:
    def fresh():
        torch.manual_seed(0)
        return create_model(f"{family}_lm_130m")

    model = fresh()
    found = {
        "float32": Ours(model),
        "bfloat16": Ours(fresh().to(torch.bfloat16)),
        "int8": Ours(quantize_linear_(fresh())),
        "plain torch, float32": Ours(model, plain=True),
    }
    if theirs:
        found["transformers, float32"] = Theirs(family)
    return found


def speed_of(subject, read: int, written: int, prompt, states: dict, name: str) -> float:
    """Tokens per second of reading or of writing; a state goes on from turn to turn."""
    if isinstance(subject, LlamaCpp):
        return subject.speed(read, written)
    if read:
        return read / seconds(subject.read, prompt)[0]
    took, states[name] = seconds(subject.write, states[name], written)
    return written / took


def seconds(call, *arguments):
    begin = time.perf_counter()
    result = call(*arguments)
    return time.perf_counter() - begin, result


def speeds(found: dict, repeats: int) -> dict[str, dict[str, list[float]]]:
    """Tokens per second of every repeat, for decoding and for reading."""
    ids = torch.randint(0, 50000, (1, PREFILL))
    speed = {name: {"decoding": [], "prefill": []} for name in found}
    own = {name: subject for name, subject in found.items() if not isinstance(subject, LlamaCpp)}
    states = {name: subject.write(subject.read(ids[:, :8]), 3) for name, subject in own.items()}
    for _ in range(repeats):
        for name, subject in found.items():
            speed[name]["decoding"].append(speed_of(subject, 0, DECODED, ids, states, name))
    for _ in range(max(1, repeats // 3)):
        for name, subject in found.items():
            speed[name]["prefill"].append(speed_of(subject, PREFILL, 0, ids, states, name))
    return speed


def quality(found: dict) -> str:
    """What int8 does to the logits of random tokens, and to their loss."""
    ids = torch.randint(0, 50000, (1, 128))
    exact, rounded = (found[name].model(ids)[0].double()[:, :-1] for name in ("float32", "int8"))
    loss, other = (torch.nn.functional.cross_entropy(t[0], ids[0, 1:]).item() for t in (exact, rounded))
    error = ((rounded - exact).norm() / exact.norm()).item()
    same = (rounded.argmax(-1) == exact.argmax(-1)).double().mean().item()
    return (
        f"int8: logits off by {error:.2%}, loss {loss:.4f} -> {other:.4f}, the likeliest token is the same {same:.0%}"
    )


def growth(subject: Ours, tokens: int = 200) -> float:
    """MB by which the process grew at most while so many tokens were decoded."""
    state = subject.write(subject.read(torch.zeros(1, 8, dtype=torch.int64)), 3)
    with peak_memory() as peak:
        subject.write(state, tokens)
    return (peak.extra or 0) / 1e6


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--family", choices=FAMILIES, action="append")
    parser.add_argument("--no-transformers", action="store_true")
    parser.add_argument("--llama-bench", help="llama.cpp's program of that name")
    parser.add_argument("--gguf", action="append", default=[], metavar="PRECISION=FILE", help="a file for it")
    parser.add_argument("--save", metavar="FOLDER", help="write the Mamba model in Hugging Face's layout, and end")
    options = parser.parse_args()
    if options.save:
        torch.manual_seed(0)
        save_language_model(create_model("mamba_lm_130m").eval(), options.save, layout="huggingface")
        return
    torch.set_num_threads(options.threads)
    machine = platform.processor() or platform.machine()
    print(f"{machine}, {_native.isa()}, {options.threads} threads, torch {torch.__version__}")
    for family in options.family or FAMILIES:
        found = subjects(family, not options.no_transformers)
        for precision, _, file in (text.partition("=") for text in options.gguf if family == "mamba"):
            found[f"llama.cpp, {precision}"] = LlamaCpp(options.llama_bench, file, options.threads)
        speed = speeds(found, options.repeats)
        base = {what: statistics.median(speed["plain torch, float32"][what]) for what in ("decoding", "prefill")}
        for name, rows in speed.items():
            text = "   ".join(
                f"{what} {statistics.median(t):7.1f} tokens/s [{min(t):.1f}, {max(t):.1f}] n={len(t)}, "
                f"{statistics.median(t) / base[what]:.2f} times plain torch"
                for what, t in rows.items()
            )
            print(f"{family:7} {name:22} {text}", flush=True)
        for name in found:
            precision = name.removeprefix("llama.cpp, ")
            if precision != name:
                ratios = (
                    f"{what} {statistics.median(speed[precision][what]) / statistics.median(speed[name][what]):.2f}"
                    for what in ("decoding", "prefill")
                )
                print(f"{family:7} {precision}, times llama.cpp: {', '.join(ratios)}")
        print(f"{family:7} {quality(found)}")
        print(f"{family:7} 200 tokens of decoding add {growth(found['float32']):.1f} MB", flush=True)


if __name__ == "__main__":
    main()

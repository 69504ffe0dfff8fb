"""By how much a process grows when it loads a language model and writes a few tokens, in weights and state.

A model with random weights is written to a temporary folder; a new process imports everything, then loads it, reads a
prompt and writes 8 tokens. The growth is that of the high-water mark of resident memory. `make bench-memory`, about two
minutes and 4 GB of memory and disk for the 370m shape.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile

import torch

from ssmlab.checkpoints.files import load_language_model, save_language_model
from ssmlab.models import create_model
from ssmlab.profiling import count_parameters, peak_memory
from ssmlab.profiling.language import token_costs

PRECISIONS = ("float32", "bfloat16")


def child(folder: str, precision: str, tokens: int) -> None:
    """Print the bytes by which this process grows."""
    dtype = getattr(torch, precision)
    with peak_memory() as peak:
        load_language_model(folder, dtype).generate([[1] * tokens], max_tokens=8)
    print(peak.extra)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mamba_lm_370m")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--child", nargs=3, metavar=("FOLDER", "PRECISION", "TOKENS"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child[0], args.child[1], int(args.child[2]))
        return
    for precision in PRECISIONS:
        with tempfile.TemporaryDirectory() as folder:
            model = create_model(args.model).to(getattr(torch, precision))
            size = next(model.parameters()).element_size()
            least = count_parameters(model) * size + token_costs(model.float()).state_bytes
            save_language_model(model.to(getattr(torch, precision)).eval(), folder)
            del model
            print(f"weights and state: {least / 1e6:.0f} MB", flush=True)
            for tokens in (8, 1024):
                command = [sys.executable, __file__, "--child", folder, precision, str(tokens)]
                grown = [int(subprocess.check_output(command)) / least for _ in range(args.repeats)]
                middle = f"{statistics.median(grown):.2f} [{min(grown):.2f}, {max(grown):.2f}], n={args.repeats}"
                print(f"{args.model}, {precision}, {tokens} tokens read: {middle}", flush=True)


if __name__ == "__main__":
    main()

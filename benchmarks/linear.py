"""A linear layer in float32 on the CPU: our product (`ssmlab.ops.linear`) and torch's, forward and with gradients.

In turns in one process; medians of `--repeats` with their range, in GFLOP/s and as a ratio. `make bench-linear`, about
20 seconds on two cores.
"""

import argparse
import statistics
import time

import torch
from torch.nn import functional as F

from ssmlab.ops import linear as product

# rows, inputs, outputs: Mamba-130m's four layers on 1,024 tokens, VMamba-T's first and last stage on 8 images of 224
SIZES = [(1024, 768, 3072), (1024, 1536, 80), (1024, 48, 1536), (1024, 1536, 768), (25088, 96, 384), (392, 768, 3072)]


def seconds(layer, inputs, backward: bool) -> float:
    begin = time.perf_counter()
    with torch.set_grad_enabled(backward):
        y = layer(*inputs)
    if backward:
        torch.autograd.grad(y, inputs, torch.ones_like(y))
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"{args.threads} threads, n={args.repeats}; oneDNN {'in use' if product.ONEDNN else 'not in use here'}")
    print("rows x inputs x outputs    | what     | ours, GFLOP/s [range]  | torch's                | ratio")
    for rows, inputs, outputs in SIZES:
        tensors = [torch.randn(rows, inputs), torch.randn(outputs, inputs), torch.randn(outputs)]
        tensors = [t.requires_grad_() for t in tensors]
        for backward in (False, True):
            took: dict[str, list[float]] = {"ours": [], "torch": []}
            for repeat in range(args.repeats + 2):
                for name, layer in (("ours", product.linear), ("torch", F.linear)):
                    one = seconds(layer, tensors, backward)
                    if repeat > 1:
                        took[name].append(one)
            work = (6 if backward else 2) * rows * inputs * outputs / 1e9
            cells = []
            for times in took.values():
                middle, low, high = (work / t for t in (statistics.median(times), max(times), min(times)))
                cells.append(f"{middle:7.0f} [{low:.0f}, {high:.0f}]".ljust(22))
            ratio = statistics.median(took["torch"]) / statistics.median(took["ours"])
            what = "training" if backward else "forward"
            print(f"{rows} x {inputs} x {outputs}".ljust(26), what.ljust(8), *cells, f"{ratio:.2f}", sep=" | ")


if __name__ == "__main__":
    main()

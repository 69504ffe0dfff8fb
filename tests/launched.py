"""What the processes of `processes.start` do."""

import os
import sys
from pathlib import Path
from unittest import mock


def runs(jobs: list, output: str, stop: list[int] | None = None) -> None:
    """Run recipes one after the other: [recipe, overrides] each, in its tiny form, without pages.

    Args:
        stop: rank, step and signal: that process gets the signal in that step of every run.
    """
    from ssmlab.core.errors import UserError, exit_code_of
    from ssmlab.core.world import world_of
    from ssmlab.experiments.run import run_recipe
    from ssmlab.tasks.recipe import load_recipe
    from ssmlab.training.callbacks import Watch

    plain, codes = Watch.on_step_end, []

    def on_step_end(self, args, state, *rest, **named):
        plain(self, args, state, *rest, **named)
        if stop and [world_of().rank, state.global_step] == stop[:2]:
            os.kill(os.getpid(), stop[2])

    with (
        mock.patch("ssmlab.reports.html.write_report", lambda folder, _: folder / "report.html"),
        mock.patch.object(Watch, "on_step_end", on_step_end),
    ):
        for recipe, overrides in jobs:
            try:
                run_recipe(load_recipe(recipe, overrides, smoke=True), output=Path(output))
                codes.append(0)
            except UserError as error:
                sys.stderr.write(f"{error}\n")
                sys.exit(error.exit_code)
            except KeyboardInterrupt as error:
                codes.append(exit_code_of(error))
    sys.exit(codes[0] if len(set(codes)) == 1 else f"the runs end with {codes}")


def pieces(output: str) -> None:
    """A Mamba and a Mamba-2 language model on pieces of two packed sequences; outputs and gradients go to a file."""
    from safetensors.torch import save_file
    from torch import distributed

    from ssmlab.core.world import world_of
    from ssmlab.training.context import cut_sequences, piece_of
    from ssmlab.training.distributed import start

    start("cpu")
    world = world_of()
    for name in ("mamba_lm_test", "mamba2_lm_test"):
        model, tokens, index = sequences(name)
        cut = [piece_of(values, world.rank, world.size) for values in (tokens, index)]
        with cut_sequences(model):
            logits, state = model(cut[0], seq_idx=cut[1])
            (logits**2).sum().backward()
        gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
        for gradient in gradients.values():
            distributed.all_reduce(gradient)
        own = {"logits": logits.detach(), "conv": state[-1].conv.detach(), "ssm": state[-1].ssm.detach()}
        save_file({k: v.contiguous() for k, v in (own | gradients).items()}, f"{output}/{name}-{world.rank}")


def documented(output: str) -> None:
    """The program of docs/cluster.md, and its `gradients` for two models: the loss, logits and gradients of each."""
    import torch
    from safetensors.torch import save_file

    from ssmlab.models import create_model
    from test_docs import ROOT, python_blocks

    namespace: dict = {"__name__": "documented"}
    (program,) = [block.text for block in python_blocks(ROOT / "docs" / "cluster.md") if "cut_sequences" in block.text]
    exec(program, namespace)
    world = namespace["world"]
    for name in ("mamba_lm_test", "mamba2_lm_test"):
        torch.manual_seed(1)
        model, tokens = create_model(name, vocab_size=256), torch.randint(256, (2, 1002))
        loss, logits = namespace["gradients"](model, tokens)
        found = {"loss": loss, "logits": logits} | {key: value.grad for key, value in model.named_parameters()}
        save_file({key: value.contiguous() for key, value in found.items()}, f"{output}/{name}-{world.rank}")


def sequences(name: str):
    """A tiny language model in float64 and two rows of tokens, of which one holds two documents."""
    import torch

    from ssmlab.models import create_model

    torch.manual_seed(0)
    model = create_model(name, vocab_size=17).double().train()
    tokens = torch.randint(17, (2, 61))
    index = torch.zeros(2, 61, dtype=torch.int32)
    index[1, 30:] = 1  # where 2 processes meet
    return model, tokens, index

"""Hybrids of other authors, Bamba, Jamba, Zamba2 and Falcon-H1, in transformers' classes, to write and be measured.

transformers computes; whoever wants our kernels in it calls `ssmlab.compat.install()` before. Its layers keep attention
of every token and change their cache in place, and a second piece of a prompt would not go on from the first one's
states. So a prompt is read whole, every row by itself, and a call gets a copy of the cache: a state stays a value.
"""

from __future__ import annotations

import copy
import warnings
from inspect import signature
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ssmlab.checkpoints.find import CONFIG, HYBRIDS, read_object
from ssmlab.core.errors import ModelError
from ssmlab.generation.generate import generate
from ssmlab.generation.prompt_state import read
from ssmlab.models.weights import one_line


class Caches:
    """The caches of several rows, with how many tokens each has read; by the names that a state's tensors have.

    A cache does not tell how many: that of Bamba counts those of its first layer, which is no attention.
    """

    def __init__(self, rows: list[tuple[Any, int]]):
        self.rows = rows

    def index_select(self, _: int, index: Tensor) -> Caches:
        """Those of some rows, copied."""
        return Caches([copy.deepcopy(self.rows[row]) for row in index.tolist()])


class HybridState(NamedTuple):
    """The state of a model, as of a single layer."""

    caches: Caches


class Hybrid(nn.Module):
    """A causal language model of transformers with the calls of `LanguageModel`.

    Args:
        network: of transformers, in evaluation mode.
    """

    reads_whole = True  # see `generation.prompt_state.read`
    registry_name = None
    read, generate = read, generate

    def __init__(self, network: Any):
        super().__init__()
        self.network = network
        size = network.config.vocab_size
        # transformers has renamed it
        self._cache = "cache" if "cache" in signature(network.forward).parameters else "past_key_values"
        self.config = SimpleNamespace(vocab_size=size, padded_vocab=size, logits=size)

    @property
    def backbone(self) -> Any:
        """What has the embedding."""
        return SimpleNamespace(embedding=self.network.get_input_embeddings())

    @torch.no_grad()
    def forward(
        self,
        input_ids: Tensor,
        state: tuple | None = None,
        *,
        mask: Tensor | None = None,
        seq_idx: Tensor | None = None,
        last_only: bool = False,
    ) -> tuple[Tensor, tuple]:
        """As of `LanguageModel`: logits (b, l or 1, vocabulary) and the state after the last token.

        The texts of a row that `seq_idx` numbers are read one by one, each from the beginning but for the first.
        """
        before = [(None, 0)] * len(input_ids) if state is None else copy.deepcopy(state[0].caches.rows)
        length = 1 if last_only else input_ids.shape[1]
        weight = self.backbone.embedding.weight
        logits = torch.zeros(len(input_ids), length, self.config.vocab_size, dtype=weight.dtype, device=weight.device)
        after = []
        for i, (cache, count) in enumerate(before):
            places = torch.arange(input_ids.shape[1]) if mask is None else mask[i].nonzero()[:, 0]
            texts: Any = [places] if len(places) else []
            if seq_idx is not None and len(places):
                texts = places.split(seq_idx[i, places].unique_consecutive(return_counts=True)[1].tolist())
            for number, text in enumerate(texts):
                if number:
                    cache, count = None, 0
                for piece in (
                    text[:, None] if cache is not None else text[None]
                ):  # the first whole, later token by token
                    at = torch.arange(count, count + len(piece), device=weight.device)[None]
                    options = {"use_cache": True, "position_ids": at, self._cache: cache}
                    out = self.network(input_ids[i : i + 1, piece], **options)
                    cache, count = out[self._cache], count + len(piece)
                    if last_only:
                        logits[i, 0] = out.logits[0, -1]
                    else:
                        logits[i, piece] = out.logits[0]
            after.append((cache, count))
        return logits, (HybridState(Caches(after)),)


def load_hybrid(folder: str | Path, dtype: torch.dtype | None = None, adapter: str | Path | None = None) -> Hybrid:
    """One of `HYBRIDS` from a folder of transformers, on the CPU and in evaluation mode. No code in a file is run.

    Args:
        dtype: of the parameters; None takes the file's.
        adapter: a folder of PEFT of any kind that has weights of its own; it becomes part of the model's.
    Raises:
        ModelError: files are missing or do not fit.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    title = HYBRIDS[read_object(Path(folder) / CONFIG)["model_type"]]
    try:
        network, found = AutoModelForCausalLM.from_pretrained(
            str(folder), dtype=dtype or "auto", local_files_only=True, trust_remote_code=False, output_loading_info=True
        )
    # Damaged files make transformers raise nearly anything
    except Exception as error:
        raise ModelError(f"{folder}: transformers cannot open this {title} ({one_line(error)})") from error
    wrong = sorted((*found["missing_keys"], *found["unexpected_keys"]))
    if wrong:
        raise ModelError(f"{folder}: {len(wrong)} tensors of this {title} are missing or too many: {wrong[0]}")
    if adapter is not None:
        from peft import PeftModel

        try:
            with warnings.catch_warnings():  # PEFT asks transformers by names that it renames
                warnings.simplefilter("ignore", FutureWarning)
                network = PeftModel.from_pretrained(network, str(adapter)).merge_and_unload()
        except Exception as error:
            raise ModelError(f"{adapter}: PEFT cannot put this on {folder} ({one_line(error)})") from error
    return Hybrid(network.eval())

"""Text generation by the original's signatures: token after token, with the layers' states in a dictionary."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ssmlab.core.errors import UserError

__all__ = [
    "DecodingCGCache", "GenerationMixin", "InferenceParams", "capture_graph", "decode",
    "modify_logit_for_repetition_penalty", "modify_logits_for_min_p_filtering", "modify_logits_for_top_k_filtering",
    "modify_logits_for_top_p_filtering", "sample", "update_graph_cache",
]  # fmt: skip


@dataclass
class InferenceParams:
    """What goes through a model with a prompt and with every token after it.

    Args:
        seqlen_offset: tokens before the ones of this call; 0 for a prompt.
        key_value_memory_dict: the states of every layer by its number; layers put theirs there.
    """

    max_seqlen: int
    max_batch_size: int
    seqlen_offset: int = 0
    batch_size_offset: int = 0
    key_value_memory_dict: dict = field(default_factory=dict)
    lengths_per_sample: Tensor | None = None

    def reset(self, max_seqlen, max_batch_size):
        """Begin anew; the states stay allocated, and a prompt overwrites them."""
        self.max_seqlen, self.max_batch_size, self.seqlen_offset = max_seqlen, max_batch_size, 0
        if self.lengths_per_sample is not None:
            self.lengths_per_sample.zero_()


def modify_logits_for_min_p_filtering(logits, min_p):
    """Drop logits below `min_p`, in place; nothing happens unless 0 < min_p < 1."""
    if 0.0 < min_p < 1.0:
        logits.masked_fill_(logits < min_p, -torch.inf)


def modify_logits_for_top_k_filtering(logits, top_k):
    """Drop all but the `top_k` largest, in place."""
    logits.masked_fill_(logits < logits.topk(top_k).values[..., -1:], -torch.inf)


def modify_logits_for_top_p_filtering(logits, top_p):
    """Keep the most probable tokens that together reach `top_p`, in place; nothing happens unless 0 < top_p < 1."""
    if not 0.0 < top_p < 1.0:
        return
    ordered, order = logits.sort(descending=False)
    drop = ordered.softmax(-1).cumsum(-1) <= 1 - top_p
    logits.masked_fill_(drop.scatter(1, order, drop), -torch.inf)


def modify_logit_for_repetition_penalty(logits, prev_output_tokens, repetition_penalty=1.0):
    """Make tokens that were there less probable, in place: Keskar et al. 2019 (arXiv:1909.05858), section 4.1.

    Args:
        logits: (b, vocabulary). prev_output_tokens: (b, l).
    """
    if repetition_penalty == 1.0:
        return logits
    score = logits.gather(1, prev_output_tokens)
    score = torch.where(score < 0, score * repetition_penalty, score / repetition_penalty)
    return logits.scatter_(1, prev_output_tokens, score)


def sample(logits, top_k=1, top_p=0.0, min_p=0.0, temperature=1.0):
    """One token a row, (b,), of logits (b, vocabulary).

    Args:
        top_k: draw among the k most probable; 1 takes the most probable, 0 leaves all.
        top_p: of those, keep the most probable that together reach it; 0 or 1 keep all.
        min_p: with top_k = 0, keep tokens at least this times as probable as the most probable one.
        temperature: logits are divided by it; 0 takes the most probable.
    """
    if top_k == 1 or temperature == 0:
        return logits.argmax(-1)
    if top_p > 1.0:
        raise UserError(f"sample: top_p must be at most 1, got {top_p}")
    if top_k > 0:
        kept, tokens = logits.topk(min(top_k, logits.shape[-1]))
        kept = kept / temperature
        modify_logits_for_top_p_filtering(kept, top_p)
        return tokens.gather(-1, torch.multinomial(kept.softmax(-1), 1)).squeeze(-1)
    kept = logits / temperature
    if min_p > 0.0:
        relative = logits.softmax(-1)
        kept = kept.masked_fill(relative < min_p * relative.amax(-1, keepdim=True), -torch.inf)
    modify_logits_for_top_p_filtering(kept, top_p)
    return torch.multinomial(kept.softmax(-1), 1).squeeze(-1)


@torch.inference_mode()
def decode(
    input_ids, model, max_length, top_k=1, top_p=0.0, min_p=0.0, temperature=1.0, repetition_penalty=1.0,
    eos_token_id=None, teacher_outputs=None, vocab_size=None, cg=False, enable_timing=False, output_scores=False,
    streamer=None,
):  # fmt: skip
    """Continue prompts of one length until there are `max_length` tokens, or all rows end with `eos_token_id`.

    Args:
        input_ids: (b, l). teacher_outputs: (b, at most max_length), tokens to take instead of sampling.
        vocab_size: logits beyond it are not looked at.
        cg: a CUDA graph in the original; accepted, the steps are the same.
        enable_timing: print how long it took.
        streamer: has `put` and `end`, as transformers' streamers.
    Returns:
        transformers' GenerateDecoderOnlyOutput: `sequences` (b, max_length) and, where `output_scores`, the logits of
        every step.
    """
    from transformers.generation import GenerateDecoderOnlyOutput  # slow to import

    start = time.perf_counter()
    rows, tokens = len(input_ids), input_ids
    params = InferenceParams(max_seqlen=max_length, max_batch_size=rows)
    if cg:
        cache = getattr(model, "_decoding_cache", None)
        model._decoding_cache = update_graph_cache(model, cache, rows, input_ids.shape[1], max_length)
        params = model._decoding_cache.inference_params
        params.reset(max_length, rows)
    taught = 0 if teacher_outputs is None else teacher_outputs.shape[1]
    scores, sequences = [], input_ids
    if streamer is not None:
        streamer.put(input_ids.cpu())
    while True:
        at = None if params.seqlen_offset == 0 else torch.full_like(tokens, params.seqlen_offset)
        logits = model(tokens, position_ids=at, inference_params=params, num_last_tokens=1).logits.squeeze(1)
        logits = logits if vocab_size is None else logits[..., :vocab_size]
        if output_scores:
            scores.append(logits.clone())
        params.seqlen_offset += tokens.shape[1]
        if taught > params.seqlen_offset:
            tokens = teacher_outputs[:, params.seqlen_offset, None]
        else:
            logits = modify_logit_for_repetition_penalty(logits, sequences, repetition_penalty)
            tokens = sample(logits, top_k, top_p, min_p, temperature)[:, None]
        sequences = torch.cat([sequences, tokens], dim=1)
        if streamer is not None:
            streamer.put(tokens.cpu())
        ended = eos_token_id is not None and bool((tokens == eos_token_id).all())
        if ended or params.seqlen_offset >= max_length - 1:
            break
    if streamer is not None:
        streamer.end()
    if enable_timing:
        print(f"Prompt processing + decoding time: {1000 * (time.perf_counter() - start):.0f}ms")  # noqa: T201  what the option is for
    return GenerateDecoderOnlyOutput(sequences=sequences, scores=tuple(scores))


class GenerationMixin:
    """`generate` for a model that is called as `MambaLMHeadModel` is."""

    def allocate_inference_cache(self, batch_size, max_seqlen, dtype=None, **kwargs):
        """States of all layers by their number."""
        raise UserError(f"{type(self).__name__} has no allocate_inference_cache; cg=True needs one, leave it out")

    def generate(
        self, input_ids, max_length, top_k=1, top_p=0.0, min_p=0.0, temperature=1.0, return_dict_in_generate=False,
        output_scores=False, **kwargs,
    ):  # fmt: skip
        """`decode` with this model; the sequences alone unless `return_dict_in_generate`."""
        output = decode(
            input_ids, self, max_length, top_k=top_k, top_p=top_p, min_p=min_p, temperature=temperature,
            output_scores=output_scores, **kwargs,
        )  # fmt: skip
        if not output_scores:
            output.scores = None
        return output if return_dict_in_generate else output.sequences


@dataclass
class DecodingCGCache:
    """The states that calls with `cg` share, and the function that takes a step with them."""

    max_batch_size: int = 0
    max_seqlen: int = 0
    device: Any = None
    dtype: Any = None
    callables: dict = field(default_factory=dict)
    mempool: Any = None
    inference_params: InferenceParams | None = None
    run: Callable | None = None


@torch.inference_mode()
def update_graph_cache(
    model, cache, batch_size, seqlen_og, max_seqlen, decoding_seqlens=(1,), dtype=None, n_warmups=2
):  # fmt: skip
    """A cache for this many rows and tokens: `cache`, or a new one where that is too small or of another kind.

    There is no graph to capture; `run(input_ids, position_ids, seqlen)` calls the model and returns its logits.
    """
    parameter = next(iter(model.parameters()))
    kind = parameter.device, parameter.dtype if dtype is None else dtype
    # states are as many as the rows, so fewer rows need their own too
    if cache is None or (cache.device, cache.dtype) != kind or batch_size != cache.max_batch_size:
        cache = DecodingCGCache(device=kind[0], dtype=kind[1])
    if max_seqlen > cache.max_seqlen:
        cache.max_batch_size, cache.max_seqlen, cache.callables = batch_size, max_seqlen, {}
        cache.inference_params = InferenceParams(
            max_seqlen, batch_size, seqlen_og,
            key_value_memory_dict=model.allocate_inference_cache(batch_size, max_seqlen, kind[1]),
            lengths_per_sample=torch.full((batch_size,), seqlen_og, dtype=torch.int32, device=kind[0]),
        )  # fmt: skip
    for length in decoding_seqlens:
        if (batch_size, length) not in cache.callables:
            cache.callables[batch_size, length] = capture_graph(
                model, cache.inference_params, batch_size, max_seqlen, length, cache.mempool, n_warmups
            )

    def dispatch(input_ids, position_ids, seqlen):
        return cache.callables[tuple(input_ids.shape[:2])](input_ids, position_ids, seqlen)

    cache.run = dispatch
    cache.inference_params.seqlen_offset = 0
    return cache


def capture_graph(
    model, inference_params, batch_size, max_seqlen, decoding_seqlen=1, mempool=None, n_warmups=2
):  # fmt: skip
    """A function (input_ids, position_ids, seqlen) -> logits of a step, by an ordinary call."""

    def run(new_input_ids, new_position_ids, seqlen):
        if inference_params.lengths_per_sample is not None:
            inference_params.lengths_per_sample[:] = seqlen
        inference_params.seqlen_offset = int(seqlen)
        return model(
            new_input_ids, position_ids=new_position_ids, inference_params=inference_params,
            num_last_tokens=decoding_seqlen,
        ).logits  # fmt: skip

    return run

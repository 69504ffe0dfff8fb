"""Text generation: greedy, sampling, beam search. Rows of a batch do not influence each other."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ssmlab.core.errors import ModelError
from ssmlab.generation.beams import beam_search
from ssmlab.generation.graphs import Decoder
from ssmlab.generation.options import BeamOptions
from ssmlab.generation.prompt_state import PromptState, read, select_rows, whole_numbers
from ssmlab.generation.sampling import GenerateOptions, Sampling, draw
from ssmlab.generation.text_stream import TextStream


class Generated(NamedTuple):
    """What was written after one prompt.

    tokens: the new tokens; the last one is of `eos`, or completes the stop string, where that is the reason.
    text: theirs, without a stop string; empty where no `decode` was given.
    reason: why it ended: "eos", "stop" or "length".
    score: natural logarithm of the tokens' probability, before temperature and the like.
    logprobs: the same of every token.
    top_logprobs: for every token the `logprobs` likeliest ones of its position with theirs, the likeliest first; empty
        where none were requested.
    """

    tokens: list[int]
    text: str
    reason: str
    score: float
    logprobs: list[float]
    top_logprobs: list[list[tuple[int, float]]]


@torch.no_grad()
def generate(
    model: Any,
    prompts: PromptState | Tensor | Sequence[Sequence[int]],
    options: GenerateOptions | None = None,
    *,
    eos: int | Collection[int] | None = None,
    decode: Callable[[list[int]], str] | None = None,
    on_text: Callable[[int, str], None] | None = None,
    graphs: bool | None = None,
    **given: Any,
) -> list[Generated]:
    """Continue every prompt. A row's result does not depend on the others, but for the rounding of products.

    Args:
        model: a language model, in evaluation mode.
        prompts: tokens of every row, lists or int64 (b, l); or what `read` returned, which stays as it was.
        options: how; the fields of `GenerateOptions` may also be given one by one:
            max_tokens: new tokens of a row, at most.
            temperature, top_k, top_p, min_p, repetition_penalty: as in `Sampling`; by default the likeliest token.
            seed: of the random numbers; every row has its own, from the same seed or from one of as many.
            beams: texts that are kept while searching for the likeliest; 1 is no search.
            length_penalty: of beam search, as in `BeamOptions`; 1 compares the mean logarithm of a token's probability.
            stop: texts that end a row; what is returned ends before them.
            logprobs: how many of the likeliest tokens of every position are returned with their logarithms; not of
                beams.
            chunk: tokens of a prompt that are read at once.
        eos: the token that ends a text, or several that do.
        decode: tokens to text, which `stop` and `on_text` need.
        on_text: called with a row's number and a piece of its text as soon as that is certain.
        graphs: whether a token is recorded once as a CUDA graph and replayed; None: on a GPU for 8 tokens or more,
            unless SSMLAB_CUDA_GRAPHS=0 is in the environment. Beam search does without.
    Raises:
        UserError: an option that is unknown or out of range, options that exclude each other, or a prompt that cannot
            be read.
    """
    options = GenerateOptions.of(options, given, "generate")
    beams, stop, max_tokens, logprobs = options.beams, options.stop, options.max_tokens, options.logprobs or 0
    for name, value, least in (("beams", beams, 1), ("logprobs", logprobs, 0)):
        if not least <= value <= model.config.vocab_size:
            raise ModelError(f"{name} must be from {least} to {model.config.vocab_size}, the vocabulary, got {value}")
    if decode is None and (stop or on_text is not None):
        raise ModelError("stop and on_text are about text; give decode, which turns tokens into it")
    reading = prompts if isinstance(prompts, PromptState) else read(model, prompts, chunk=options.chunk)
    streams = [None if decode is None else TextStream(decode, tokens, stop) for tokens in reading.tokens]
    ends = frozenset(() if eos is None else whole_numbers("eos", eos if hasattr(eos, "__iter__") else [eos]))
    outside = sorted(token for token in ends if not 0 <= token < model.config.vocab_size)
    if outside:
        raise ModelError(f"eos must be tokens from 0 to {model.config.vocab_size - 1}, got {outside}")
    rows = [_Row(i, stream, ends, max_tokens, on_text) for i, stream in enumerate(streams)]
    if beams > 1 and max_tokens:
        _search(model, reading, rows, options, ends)
    elif max_tokens:
        decoder = Decoder(model, graphs, max_tokens, reading.logits.device)
        _write(model, decoder, reading, rows, options, _seeds(options.seed, len(rows)), logprobs)
    return [row.result() for row in rows]


def _search(
    model: Any, reading: PromptState, rows: list[_Row], options: GenerateOptions, ends: Collection[int]
) -> None:
    """The best text of every row by beam search."""
    limits, process = [options.max_tokens] * len(rows), options.processor()
    streams = [row.stream for row in rows if row.stream is not None]
    how = BeamOptions(beams=options.beams, length_penalty=options.length_penalty)
    found = beam_search(model, reading, limits, how, ends=ends, process=process, streams=streams)
    for row, (best,) in zip(rows, found, strict=True):
        for token, log in zip(best.tokens, best.logprobs, strict=True):
            row.take(token, log)


def _write(
    model: Any,
    decoder: Decoder,
    reading: PromptState,
    rows: list[_Row],
    sampling: Sampling,
    seeds: list[int],
    likeliest: int,
) -> None:
    """One token for every row at a time, until all are finished; finished rows leave the batch."""
    logits, state = reading.logits, reading.state
    device, vocab = logits.device, model.config.vocab_size
    generators = [torch.Generator(device).manual_seed(number) for number in seeds]
    # Rows of one length: shorter ones begin with their first token several times. Only the penalty for repetition reads
    # them, and to it a token is in the text once or often.
    longest = max(map(len, reading.tokens))
    rectangle = [[row[0]] * (longest - len(row)) + list(row) for row in reading.tokens]
    process, text = sampling.processor(), torch.tensor(rectangle, device=device)
    while True:
        scores = logits[:, :vocab].to(torch.promote_types(logits.dtype, torch.float32))
        processed = scores if process is None else process(text, scores)
        chosen = draw(processed, generators if sampling.temperature else None)
        all_logs = scores.log_softmax(1)
        if likeliest:
            for row, values, tokens in zip(rows, *map(Tensor.tolist, all_logs.topk(likeliest)), strict=True):
                row.top_logprobs.append(list(zip(tokens, values, strict=True)))
        logs = all_logs.gather(1, chosen[:, None])[:, 0].tolist()
        left = [i for i, (row, *new) in enumerate(zip(rows, chosen.tolist(), logs, strict=True)) if row.take(*new)]
        if not left:
            return
        text = torch.cat([text, chosen[:, None]], 1)
        if len(left) < len(rows):
            index = torch.tensor(left, device=device)
            state, text = select_rows(state, index), text[index]
            rows, generators = [rows[i] for i in left], [generators[i] for i in left]
        logits, state = decoder(text[:, -1:], state)
        logits = logits[:, -1]


class _Row:
    """One row while it is written."""

    def __init__(
        self,
        number: int,
        stream: TextStream | None,
        ends: Collection[int],
        max_tokens: int,
        on_text: Callable[[int, str], None] | None,
    ):
        self.number, self.stream = number, stream
        self._ends, self._max_tokens, self._on_text = ends, max_tokens, on_text
        self.tokens: list[int] = []
        self.logprobs: list[float] = []
        self.top_logprobs: list[list[tuple[int, float]]] = []
        self.reason = "length"

    def take(self, token: int, log: float) -> bool:
        """One token more; returns whether the row goes on."""
        self.tokens.append(token)
        self.logprobs.append(log)
        if token in self._ends:
            self.reason = "eos"
        elif self.stream is not None:
            self._tell(self.stream.push(token))
            if self.stream.stopped:
                self.reason = "stop"
        going_on = self.reason == "length" and len(self.tokens) < self._max_tokens
        if not going_on and self.stream is not None:
            self._tell(self.stream.end())
        return going_on

    def result(self) -> Generated:
        """What was written."""
        text = "" if self.stream is None else self.stream.text
        return Generated(self.tokens, text, self.reason, sum(self.logprobs), self.logprobs, self.top_logprobs)

    def _tell(self, text: str) -> None:
        if text and self._on_text is not None:
            self._on_text(self.number, text)


def _seeds(seed: int | Sequence[int], count: int) -> list[int]:
    seeds = [seed] * count if type(seed) is int else whole_numbers("seed", seed)
    if len(seeds) != count:
        raise ModelError(f"seed must be one number or one for each of the {count} rows, got {len(seeds)}")
    return seeds

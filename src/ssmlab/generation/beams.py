"""Beam search over many sentences at once: the likeliest texts that one finds by keeping several of each."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ssmlab.core.errors import ModelError
from ssmlab.generation.options import BeamOptions
from ssmlab.generation.prompt_state import PromptState, select_rows
from ssmlab.generation.text_stream import TextStream
from ssmlab.ops.likeliest import likeliest

Processor = Callable[[Tensor, Tensor], Tensor]


class Hypothesis(NamedTuple):
    """A text that was found.

    tokens: the last one ends it, unless the reason is "length".
    logprobs: natural logarithms of the tokens' probabilities.
    score: their sum, as a processor changed them, divided by the penalty for length.
    reason: why it ended: "eos", "stop" or "length".
    """

    tokens: list[int]
    logprobs: list[float]
    score: float
    reason: str


@torch.no_grad()
def beam_search(
    model: Any,
    start: PromptState,
    limits: Sequence[int],
    options: BeamOptions,
    *,
    ends: Collection[int] = (),
    suppress: Sequence[int] = (),
    process: Processor | None = None,
    streams: Sequence[TextStream] | None = None,
    decoder: BeamDecoder | None = None,
) -> list[list[Hypothesis]]:
    """The best continuations of every row, the best first. A row's result does not depend on the others.

    Per sentence enough candidates are looked at that as many go on however many end; one that would not have gone on
    does not end either. Equal scores are ordered by parent, then by token. A sentence is done when no text of it that
    goes on can reach the worst of the `nbest` that ended: what is returned is what a search up to the limit returns.

    Args:
        model: anything that is called as a `LanguageModel`.
        start: what comes before, a row for every sentence.
        limits: new tokens of every row, at least 1.
        ends: tokens that end a text.
        suppress: tokens that are never chosen; the others' probabilities stay.
        process: (tokens so far (r, t), log probabilities (r, vocabulary)) -> scores, as of `Sampling.processor`.
        streams: of every row; a text ends where its stream meets a stop string.
        decoder: of an earlier search with the model, whose weights have not changed since; it saves packing them.
    Returns:
        For every row 1 to `nbest` texts, no two of the same tokens.
    Raises:
        ModelError: the logits are not numbers.
    """
    vocab = model.config.vocab_size
    search = _Search(limits, options, vocab, ends, streams)
    text = _Text(start, process, options.no_repeat_ngram, suppress)
    decoder, logits, device = decoder or BeamDecoder(model), start.logits, start.logits.device
    decoder.begin(start, options.beams)
    while True:
        scores, logs, tokens = text.candidates(logits[:, :vocab], min(search.width, vocab))
        if np.isnan(scores).any():
            raise ModelError("the model's logits are not numbers (NaN); are its weights whole?")
        rows, new, lines = search.take(scores, logs, tokens)
        if not len(rows):
            return search.found
        index, chosen = torch.from_numpy(rows).to(device), torch.from_numpy(new).to(device)
        text.extend(index, chosen)
        logits = decoder(chosen, index, lines)


class BeamDecoder:
    """The model, and the states of all rows of a search: one native call a token, where the model has one.

    Args:
        model: as for `beam_search`.
    """

    def __init__(self, model: Any):
        self.model, self.state = model, ()
        self.program: Any = None

    def begin(self, start: PromptState, beams: int) -> BeamDecoder:
        """A search with a row for every sentence, which become at most `beams` each."""
        self.state, find = start.state, getattr(self.model, "row_program", None)
        self.program = None if find is None else find(start.state, beams, self.program)
        return self

    def __call__(self, tokens: Tensor, rows: Tensor, sentences: Sequence[int]) -> Tensor:
        """Logits (r, vocabulary) after one token each of `tokens` (r,), read after the states of `rows` (r,).

        Args:
            sentences: those of the state's that the rows are of, in order, each with as many rows as the others.
        """
        if self.program is not None:
            return self.program(tokens, rows, sentences)
        logits, self.state = self.model(tokens[:, None], select_rows(self.state, rows, sentences))
        return logits[:, -1]


class _Search:
    """The texts of all sentences, without the model. A grid has a line for every sentence that is not done, and in it
    as many places as the sentence with most texts has; a model's rows are the places, line by line.

    score, node: of every place, the sum of its scores (-inf where there is no text), and its last token in `tree`.
    stream: of the places with a text, where there are stop strings.
    tree: of every token its parent (-1: the start), the token and its logarithm.
    """

    def __init__(
        self,
        limits: Sequence[int],
        options: BeamOptions,
        vocab: int,
        ends: Collection[int],
        streams: Sequence[TextStream] | None,
    ):
        self.options, self.limits = options, np.array(limits)
        self.width = (1 + max(1, len(ends))) * options.beams
        self.end = np.zeros(vocab, dtype=bool)
        self.end[list(ends)] = True
        self.found: list[list[Hypothesis]] = [[] for _ in limits]
        self.sentence, self.length = np.arange(len(limits)), 0
        self.score, self.node = np.zeros((len(limits), 1)), np.full((len(limits), 1), -1)
        self.stream = {(i, 0): stream for i, stream in enumerate(streams or ())}
        self.tree: list[tuple[int, int, float]] = []

    def take(self, scores: np.ndarray, logs: np.ndarray, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray, list]:
        """One token more for every sentence.

        Args:
            scores, logs, tokens: of every row its best candidates (r, k), best first.
        Returns:
            Of the rows that there are next, their parents' rows and their tokens; and the lines that they are of. A
            place without a text repeats the first of its line.
        """
        self.length += 1
        (lines, places), k = self.score.shape, scores.shape[1]
        total = (self.score[..., None] + scores.reshape(lines, places, k)).reshape(lines, -1)
        order = np.argsort(-total, axis=1, kind="stable")[:, : self.width]
        total, parent = np.take_along_axis(total, order, 1), order // k
        row = parent + places * np.arange(lines)[:, None]
        token, log, possible = tokens[row, order % k], logs[row, order % k], total > -np.inf
        ending = possible & self.end[token]
        pushed = {}
        for s, at in np.argwhere(possible) if self.stream else ():
            pushed[s, at] = stream = copy.copy(self.stream[s, parent[s, at]])
            stream.push(int(token[s, at]))
            ending[s, at] |= stream.stopped
        going = possible & ~ending
        if self.options.beams == 1:
            going[ending[:, 0]] = False  # greedy search ends with its text
        going &= going.cumsum(1) <= self.options.beams
        ended = ending & (np.arange(total.shape[1]) < self.options.beams)
        node = self._grow(going | ended, np.take_along_axis(self.node, parent, 1), token, log)
        done = self._finish(total, node, going, ended)
        self.sentence, going = self.sentence[~done], going[~done]
        # of every line the places that go on, in order; then others, which repeat the first
        first = np.argsort(~going, axis=1, kind="stable")[:, : going.sum(1).max(initial=0)]
        real = np.take_along_axis(going, first, 1)
        first = np.where(real, first, first[:, :1])
        score, self.node, row, token = (np.take_along_axis(part[~done], first, 1) for part in (total, node, row, token))
        self.score = np.where(real, score, -np.inf)
        if self.stream:
            old = np.flatnonzero(~done)
            self.stream = {(i, j): pushed[old[i], first[i, j]] for i, j in np.argwhere(real)}
        return row.ravel(), token.ravel(), np.flatnonzero(~done).tolist()

    def _finish(self, total: np.ndarray, node: np.ndarray, going: np.ndarray, ended: np.ndarray) -> np.ndarray:
        """Keep the texts that end now, and say which lines are done."""
        limit = self.limits[self.sentence]
        last, (alpha, nbest) = limit == self.length, (self.options.length_penalty, self.options.nbest)
        for s, at in np.argwhere(ended | (going & last[:, None])):
            self.found[self.sentence[s]].append(self._hypothesis(node[s, at], total[s, at], ended[s, at]))
        attainable = np.where(going, total, -np.inf).max(1) / limit**alpha
        done = last | ~going.any(1)
        for s, i in enumerate(self.sentence):
            if done[s] and not self.found[i]:  # after none of its texts a token is possible
                live = np.flatnonzero(self.score[s] > -np.inf)
                self.found[i] = [self._hypothesis(self.node[s, b], self.score[s, b], False) for b in live]
            self.found[i] = found = sorted(self.found[i], key=lambda one: -one.score)[:nbest]
            done[s] |= len(found) == nbest and attainable[s] <= found[-1].score
        return done

    def _grow(self, where: np.ndarray, parent: np.ndarray, token: np.ndarray, log: np.ndarray) -> np.ndarray:
        """Nodes for some candidates of the grid."""
        node = np.full(where.shape, -1)
        node[where] = len(self.tree) + np.arange(np.count_nonzero(where))
        self.tree += zip(parent[where].tolist(), token[where].tolist(), log[where].tolist(), strict=True)
        return node

    def _hypothesis(self, node: int, total: float, ended: bool) -> Hypothesis:
        tokens: list[int] = []
        logs: list[float] = []
        while node >= 0:
            node, token, log = self.tree[node]
            tokens.insert(0, token)
            logs.insert(0, log)
        reason = "length" if not ended else "eos" if self.end[tokens[-1]] else "stop"
        return Hypothesis(tokens, logs, float(total) / max(1, len(tokens)) ** self.options.length_penalty, reason)


class _Text:
    """The tokens of every row so far, where something depends on them, and what each may go on with.

    Rows are of one length: shorter ones begin with their first token several times. To the penalty for repetition a
    token is in a text once or often; n-grams are looked for after `begin`.
    """

    def __init__(self, start: PromptState, process: Processor | None, ngram: int, suppress: Sequence[int]):
        self.process, self.ngram, device = process, ngram, start.logits.device
        self.suppress = suppress
        longest = max(map(len, start.tokens))
        self.begin = torch.tensor([longest - len(row) for row in start.tokens], device=device)
        rectangle = [[row[0]] * (longest - len(row)) + list(row) for row in start.tokens]
        self.tokens = torch.tensor(rectangle, device=device)

    def extend(self, rows: Tensor, tokens: Tensor) -> None:
        """One token more for some rows, in any order and as often as named."""
        if self.process is not None or self.ngram:
            self.tokens, self.begin = torch.cat([self.tokens[rows], tokens[:, None]], 1), self.begin[rows]

    def candidates(self, logits: Tensor, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Scores, log probabilities and tokens of the k best of every row (r, vocabulary), each (r, k), best first.

        Sums are in float64, where two logits that differ differ afterwards too: one beam is greedy search.
        """
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if self.process is None and not self.ngram:
            total, best, tokens = likeliest(logits, k, self.suppress)
            best = logs = best.double() - total[:, None]
        else:
            all_logs = logits.double() - logits.logsumexp(1, keepdim=True).double()
            scores = all_logs if self.process is None else self.process(self.tokens, all_logs)
            if self.ngram:
                scores = self._without_repeats(scores)
            _, best, tokens = likeliest(scores, k, self.suppress)
            logs = all_logs.gather(1, tokens)
        return best.cpu().numpy(), logs.cpu().numpy(), tokens.cpu().numpy()

    def _without_repeats(self, scores: Tensor) -> Tensor:
        """-inf for what would complete an n-gram that is in the row already."""
        if self.tokens.shape[1] < self.ngram:
            return scores
        windows = self.tokens.unfold(1, self.ngram, 1)
        tail = self.tokens[:, None, self.tokens.shape[1] - self.ngram + 1 :]
        own = torch.arange(windows.shape[1], device=scores.device) >= self.begin[:, None]
        row, place = torch.nonzero((windows[..., :-1] == tail).all(-1) & own, as_tuple=True)
        return scores.index_put((row, windows[row, place, -1]), scores.new_tensor(-torch.inf))

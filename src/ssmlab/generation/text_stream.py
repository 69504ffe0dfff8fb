"""From tokens to text one token at a time: no half characters, and nothing of a stop string."""

from __future__ import annotations

from collections.abc import Callable, Sequence

BROKEN = "\ufffd"  # stands for bytes that are no character, or not one yet
WINDOW, TAIL = 64, 16  # tokens that are decoded again with every new one: at most, and at least


class TextStream:
    """The text of the tokens that follow a prompt.

    The prompt's last tokens are decoded along, because a decoder may drop the space before the first token it is given.

    Attributes:
        text: all that has been handed out.
        stopped: whether a stop string was met; the text ends before it.

    Args:
        decode: tokens to text.
        prompt: the tokens before.
        stop: texts that end it. They may begin in one token and end in another.
    """

    def __init__(self, decode: Callable[[list[int]], str], prompt: Sequence[int] = (), stop: Sequence[str] = ()):
        self._decode, self._stop = decode, tuple(stop)
        self._window = _tail(decode, list(prompt))
        self._taken = len(decode(self._window))  # characters of the window's text that were read already
        self._held = ""  # may be the beginning of a stop string
        self.text, self.stopped = "", False

    def push(self, token: int) -> str:
        """The text that is certain with one token more; often none, and none at all after a stop string."""
        self._window = [*self._window, token]  # a new list: beams copy streams
        text = self._decode(self._window)
        settled = max(self._taken, len(text.rstrip(BROKEN)))
        new = text[self._taken : settled]
        self._taken = settled
        if len(self._window) > WINDOW and settled == len(text):
            self._window = _tail(self._decode, self._window)
            self._taken = len(self._decode(self._window))
        return self._hand_out(new)

    def end(self) -> str:
        """What was held back, once there are no more tokens."""
        rest = self._decode(self._window)[self._taken :]
        self._taken += len(rest)
        out = self._hand_out(rest)
        held, self._held = self._held, ""
        self.text += held
        return out + held

    def _hand_out(self, new: str) -> str:
        if self.stopped:
            return ""
        text = self._held + new
        found = [at for at in (text.find(stop) for stop in self._stop) if at >= 0]
        if found:
            self.stopped, ready, self._held = True, min(found), ""
        else:
            ready = len(text) - max((overlap(text, stop) for stop in self._stop), default=0)
            self._held = text[ready:]
        self.text += text[:ready]
        return text[:ready]


def overlap(text: str, stop: str) -> int:
    """Characters at the end of `text` that `stop` may have begun with."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)


def _tail(decode: Callable[[list[int]], str], tokens: list[int]) -> list[int]:
    """The last tokens, from one that begins a character, which has at most four."""
    if len(tokens) <= TAIL:
        return tokens
    starts = range(len(tokens) - TAIL, len(tokens) - TAIL + 4)
    return next((tokens[at:] for at in starts if not decode(tokens[at:]).startswith(BROKEN)), tokens[-TAIL:])

"""`Stream`: records of many shards in a random order, without an end, from any position on."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, Protocol

import numpy as np

from ssmlab.core.errors import DataError


class Source(Protocol):
    """Data in shards, each of which is read from its beginning: a piece of a file, a tar file, a group of rows."""

    def __len__(self) -> int:
        """The number of shards."""
        ...

    def read(self, shard: int) -> Iterator[Any]:
        """The records of a shard, whenever it is read the same ones in the same order."""
        ...


class Stream:
    """Records of all shards, pass after pass without an end, every record once a pass.

    A pass reads the shards in a random order. `buffer` records are kept in memory; the next one is drawn from them, and
    the next one read takes its place. The position is (pass, shard, record) of what is read next, the state of the
    generator, and where the records of the buffer are from: they are read again when a stream goes on.

    Args:
        source: the shards.
        shards: numbers of those that are read; None: all.
        buffer: records that are kept; 1: the order of the shards alone.
        seed: decides the order. The number of workers does not.
        prepare: makes an item of a record, such as an image of a file's bytes, on `workers` threads, while the items
            before are in use, or on none but the caller's with 0; None: records are the items.
    Raises:
        DataError: there is no shard.
    """

    def __init__(
        self,
        source: Source,
        *,
        shards: Sequence[int] | np.ndarray | None = None,
        buffer: int = 4096,
        seed: int = 0,
        prepare: Callable[[Any], Any] | None = None,
        workers: int = 1,
    ):
        self.source, self.size = source, buffer
        self.shards = np.arange(len(source)) if shards is None else np.asarray(shards)
        if not len(self.shards):
            raise DataError("a stream has no shards; give at least one file")
        self._prepare, self._workers = prepare, workers
        self._pool: ThreadPoolExecutor | None = None
        self.restart(seed)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return self.take(1)[0]

    def restart(self, seed: int) -> None:
        """Begin anew, in the order of this seed."""
        rng = np.random.default_rng(seed).bit_generator.state
        start = {"pass": 0, "shard": 0, "record": 0, "buffer": [], "taken": 0}
        self.load_state_dict({"seed": seed, "rng": rng, **start})

    def take(self, count: int, part: slice = slice(None)) -> list[Any]:
        """Those of the next `count` items that are in `part`; the same of as many again are prepared meanwhile.

        All are drawn, whatever the part is: processes that take different parts of one stream have one position.

        Raises:
            DataError: a record cannot be read, or there is none in any shard.
        """
        own = range(count)[part]
        if self._prepare is None or not self._workers:
            records = [self._draw() for _ in range(count)][part]
            return records if self._prepare is None else [self._prepare(record) for record in records]
        found: list[Any] = []
        for number in range(count):
            if not self._ahead:
                self._prepare_next([i in own for i in range(number, count)])
            record, item = self._ahead.popleft()
            self._taken += 1
            if number in own:
                found.append(item.result() if item else self._prepare(record))
        if not self._ahead:
            self._prepare_next([i in own for i in range(count)])
        return found

    def state_dict(self) -> dict[str, Any]:
        """Where the stream is, as JSON can hold it: what `load_state_dict` goes on from.

        "buffer" holds (shard, record) of each record in it, "taken" how many were handed out since.
        """
        return self._before | {"taken": self._taken} if self._ahead else self._state()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there: the next items are those that came next when the state was taken."""
        wanted: dict[int, dict[int, Any]] = {}
        for shard, record in state["buffer"]:
            wanted.setdefault(shard, {})[record] = None
        for shard, records in sorted(wanted.items()):
            for number, value in enumerate(islice(self.source.read(shard), max(records) + 1)):
                if number in records:
                    records[number] = value
        self._buffer = [((shard, record), wanted[shard][record]) for shard, record in state["buffer"]]
        self.seed, self._random = state["seed"], np.random.default_rng()
        self._random.bit_generator.state = state["rng"]
        self._start(state["pass"], state["shard"], state["record"])
        self._ahead: deque[tuple[Any, Future | None]] = deque()
        self._before, self._taken = state, 0  # the state before the items that are prepared, and how many of them went
        for _ in range(state["taken"]):
            self._draw()

    def _state(self) -> dict[str, Any]:
        places = [place for place, _ in self._buffer]
        state = {"pass": self._pass, "shard": self._shard, "record": self._record, "buffer": places, "taken": 0}
        return state | {"seed": self.seed, "rng": self._random.bit_generator.state}

    def _prepare_next(self, wanted: list[bool]) -> None:
        """Draw as many records, and begin to prepare those that are wanted."""
        self._before, self._taken = self._state(), 0
        if self._pool is None:
            self._pool = ThreadPoolExecutor(max_workers=self._workers, thread_name_prefix="stream")
        for own in wanted:
            record = self._draw()
            self._ahead.append((record, self._pool.submit(self._prepare, record) if own else None))  # type: ignore[arg-type]

    def _start(self, number: int, shard: int = 0, record: int = 0) -> None:
        """Read on from this record of a pass."""
        self._pass, self._shard, self._record = number, shard, record
        self._order = self.shards[np.random.default_rng([self.seed, number]).permutation(len(self.shards))]
        self._records: Iterator[Any] | None = None

    def _draw(self) -> Any:
        for _ in range(2):  # of what this pass has left, else of the next one
            while len(self._buffer) < self.size and self._shard < len(self._order):
                self._read()
            if self._buffer:
                at = int(self._random.integers(len(self._buffer)))
                (_, record), self._buffer[at] = self._buffer[at], self._buffer[-1]
                self._buffer.pop()
                return record
            self._start(self._pass + 1)
        raise DataError("a stream has no records in any of its shards; give at least one")

    def _read(self) -> None:
        """One more record into the buffer, or the end of a shard."""
        shard = int(self._order[self._shard])
        if self._records is None:
            self._records = islice(self.source.read(shard), self._record, None)
        for record in self._records:
            self._buffer.append(((shard, self._record), record))
            self._record += 1
            return
        self._shard, self._record, self._records = self._shard + 1, 0, None

"""Sequences for a trained model to answer: files, folders and standard input, read as in training. numpy only."""

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ssmlab.core.errors import DataError
from ssmlab.data.sequences.fasta import parse_fasta, unpacked
from ssmlab.data.sequences.wav import mu_law, read_wav, resampled
from ssmlab.data.text.documents import Document, documents_of, find_files
from ssmlab.data.text.encoding import UTF8, as_utf8, decode_text

STDIN = "-"  # stands for standard input among the paths
_SOURCES = {
    "text": "a .txt file or a folder of them",
    "dna": "a FASTA file or a folder of them",
    "audio": "a .wav file or a folder of them",
}


@dataclass(frozen=True, kw_only=True)
class Reader:
    """How the bytes of a file become tokens.

    kind: "text", "dna" or "audio"; a FASTA file holds a sequence in every record, the others one each.
    encode: a text's tokens.
    length: tokens that are kept of a sequence, its first.
    rate: samples per second that the model learned from, to which sounds are resampled; 0 where it is not known.
    lines: whether every line of a text that is not blank is a sequence.
    encoding: of texts.
    notes: what the user should know, filled by `read`.
    """

    kind: str
    encode: Callable[[str], Sequence[int]]
    length: int
    rate: int = 0
    lines: bool = False
    encoding: str = UTF8
    notes: list[str] = field(default_factory=list)

    def read(self, paths: Sequence[Path], stdin: Callable[[], bytes]) -> tuple[list[Document], list[str]]:
        """Sequences, by file and record or line, and what is wrong with the rest.

        Args:
            paths: files and folders, "-" for standard input.
            stdin: its content.
        """
        found: list[Document] = []
        problems: list[str] = []
        for name, content in self._contents(paths, stdin, problems):
            try:
                documents = self._parsed(name, content())
            except (OSError, EOFError, ValueError) as error:
                problems.append(f"{name}: {error}")
                continue
            for document in documents:
                if len(document.tokens):
                    found.append(Document(document.id, np.asarray(document.tokens[: self.length])))
                else:
                    problems.append(f"{document.id}: holds nothing that the model could read")
        return found, problems

    def _contents(self, paths, stdin, problems) -> Iterator[tuple[str, Callable[[], bytes]]]:
        for path in paths:
            if str(path) == STDIN:
                yield "stdin", stdin
                continue
            try:
                files = find_files(path, self.kind, _SOURCES[self.kind])
            except DataError as error:
                problems += error.problems or [str(error)]
                continue
            for _, file in files:
                yield str(file), file.read_bytes

    def _parsed(self, name: str, content: bytes) -> list[Document]:
        if self.kind == "dna":
            content = as_utf8(unpacked(content))
            plain = name == "stdin" and not content.lstrip().startswith((b">", b";"))
            return parse_fasta(name, b">1\n" + content if plain else content)
        if self.kind == "audio":
            samples, rate = read_wav(io.BytesIO(content))
            if self.rate and rate != self.rate:
                self.notes.append(f"{name}: resampled from {rate:,} to the model's {self.rate:,} samples per second")
                samples = resampled(samples, rate, self.rate)
            return [Document(name, mu_law(samples))]
        rows = documents_of(name, decode_text(content, self.encoding), "line" if self.lines else "file")
        return [Document(id, np.array(self.encode(row))) for id, row in rows]

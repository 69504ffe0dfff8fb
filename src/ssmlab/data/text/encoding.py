"""Bytes of a text file to text, by one rule for every reader: texts, tables, JSON lines, FASTA, lists.

byte order mark   UTF-8's is taken away; after UTF-16's (Excel's "Unicode text") the file is read as UTF-16
else              UTF-8, and nothing else: a guess would be wrong without a word; zero bytes are no text
line ends         CRLF and CR become LF
"""

import codecs
import json
from pathlib import Path

UTF8 = "utf-8"


def as_utf8(content: bytes) -> bytes:
    """The file's bytes as UTF-8 without a mark; those without any mark as they are.

    Raises:
        ValueError: it has UTF-16's mark and is no UTF-16.
    """
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        try:
            return content.decode("utf-16").encode("utf-8")
        except UnicodeError as error:
            raise ValueError(f"begins as UTF-16 and is not ({error.reason}); save it as UTF-8") from None
    return content.removeprefix(codecs.BOM_UTF8)


def decode_text(content: bytes, encoding: str = UTF8) -> str:
    """A file's text, lines ending in a line feed.

    Args:
        encoding: a codec's name, where the user says that it is not UTF-8.
    Raises:
        ValueError: it is not in that encoding, with the place and the way out.
    """
    if encoding != UTF8:
        try:
            return content.decode(encoding).replace("\r\n", "\n").replace("\r", "\n")
        except UnicodeDecodeError as error:
            place = f"not {encoding} at byte {error.start:,}"
            raise ValueError(f"{place}; data.encoding names another encoding") from None
    plain = as_utf8(content)
    try:
        text = plain.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"not UTF-8 at byte {error.start + len(content) - len(plain):,}; convert it, e.g. with iconv -t utf-8"
        ) from None
    if "\0" in text:
        raise ValueError("holds zero bytes: no text, or UTF-16 without its mark; save it as UTF-8")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def head_of_text(content: bytes) -> str:
    """The whole lines of a file's first bytes; what is no text in them is replaced."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        text = content[: len(content) // 2 * 2].decode("utf-16", "replace")
    else:
        text = as_utf8(content).decode("utf-8", "replace")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text.rpartition("\n")[0] or text


def json_table(path: Path) -> dict:
    """The table in a JSON file of a model; {} where it is missing or holds none."""
    try:
        values = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}

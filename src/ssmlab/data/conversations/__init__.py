"""Conversations about images: records in the formats people have, and the forms in which models read them."""

from ssmlab.data.conversations.record import HUMAN, MARK, MODEL, Conversation, Turn, without_marks
from ssmlab.data.conversations.templates import (
    TEMPLATES,
    Encoded,
    Piece,
    Template,
    encode,
    end_of,
    find_template,
    shorten,
    text_of,
)

__all__ = [
    "HUMAN",
    "MARK",
    "MODEL",
    "TEMPLATES",
    "Conversation",
    "Encoded",
    "Piece",
    "Template",
    "Turn",
    "encode",
    "end_of",
    "find_template",
    "shorten",
    "text_of",
    "without_marks",
]

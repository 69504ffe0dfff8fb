"""Conversations about images: records in the formats people have, and the forms in which models read them."""

from ssmlab.data.conversations.found import Problem
from ssmlab.data.conversations.reader import (
    KINDS,
    Found,
    find_conversations,
    open_image,
    read_conversations,
    read_questions,
)
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
    "KINDS",
    "MARK",
    "MODEL",
    "TEMPLATES",
    "Conversation",
    "Encoded",
    "Found",
    "Piece",
    "Problem",
    "Template",
    "Turn",
    "encode",
    "end_of",
    "find_conversations",
    "find_template",
    "open_image",
    "read_conversations",
    "read_questions",
    "shorten",
    "text_of",
    "without_marks",
]

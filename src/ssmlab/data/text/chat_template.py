"""The chat template that comes with a tokenizer, rendered as transformers does: in a sandbox, without its code running.

A folder has it as chat_template.jinja, or as "chat_template" in tokenizer_config.json.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ssmlab.core.errors import DataError
from ssmlab.data.text.documents import Document
from ssmlab.data.text.encoding import json_table

FILE, CONFIG = "chat_template.jinja", "tokenizer_config.json"
_SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token")

Messages = Sequence[tuple[str, str]]  # (role, text)


class ChatTemplate(NamedTuple):
    """A chat template in Jinja, as Hugging Face's tokenizers have it.

    text: itself. source: the file that it came from. special: the texts of special tokens, by their names.
    """

    text: str
    source: Path
    special: dict[str, str]

    def render(self, messages: Messages, *, answer: bool) -> str:
        """Messages as one text.

        Args:
            answer: whether it ends with what comes before an answer.
        Raises:
            DataError: the template is damaged, or refuses these messages.
        """
        from jinja2 import TemplateError
        from transformers.utils.chat_template_utils import render_jinja_template

        chat = [{"role": role, "content": text} for role, text in messages]
        try:
            (rendered,), _ = render_jinja_template(
                conversations=[chat], chat_template=self.text, add_generation_prompt=answer, **self.special
            )
        except (TemplateError, TypeError, ValueError, LookupError, AttributeError) as error:
            reason = str(error).strip().split("\n")[0] or type(error).__name__
            raise DataError(f"{self.source}: the chat template cannot write these messages ({reason})") from error
        return rendered


def find_template(folders: Iterable[Path]) -> ChatTemplate | None:
    """The template in the first of some folders that has one.

    Raises:
        DataError: a folder has templates, and none is the default one.
    """
    for folder in folders:
        config = json_table(folder / CONFIG)
        special = {name: _text(config[name]) for name in _SPECIAL if _text(config.get(name))}
        if (folder / FILE).is_file():
            return ChatTemplate((folder / FILE).read_text("utf-8-sig"), folder / FILE, special)
        found = config.get("chat_template")
        if isinstance(found, list):  # several, by name
            named = {row.get("name"): row.get("template") for row in found if isinstance(row, dict)}
            if not isinstance(named.get("default"), str):
                names = ", ".join(map(str, named)) or "none"
                raise DataError(f"{folder / CONFIG}: chat_template has no default one, only {names}; write {FILE}")
            found = named["default"]
        if isinstance(found, str) and found:
            return ChatTemplate(found, folder / CONFIG, special)
    return None


def as_jinja(template: Mapping[str, str], separator: str) -> str:
    """The form of messages that language/finetune trains on, a text with {text} by role, as a template of jinja.

    Args:
        separator: the text of the token that begins a chat and ends an answer.
    """
    quoted = {role: [json.dumps(part, ensure_ascii=False) for part in text.split("{text}")] for role, text in
              template.items()}  # fmt: skip
    ends = {"assistant": f" + {json.dumps(separator)}"}
    tests = [
        f'if message["role"] == "{role}" %}}{{{{ {before} + message["content"] + {after}{ends.get(role, "")} }}}}'
        for role, (before, after) in quoted.items()
    ]
    refused = f'raise_exception("the roles are {", ".join(template)}, got " + message["role"])'
    return (
        f"{{{{ {json.dumps(separator)} }}}}{{% for message in messages %}}{{% {'{% el'.join(tests)}"
        f"{{% else %}}{{{{ {refused} }}}}{{% endif %}}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{{{{ {quoted['assistant'][0]} }}}}{{% endif %}}"
    )


def chat_document(
    id: str, messages: Messages, template: ChatTemplate, encode: Callable[[str], list[int]], separator_id: int
) -> Document:
    """A chat as tokens; the answers, with all that the template puts after them, are to be learned.

    An answer that the template does not end with `separator_id` ends with it where the chat does: the model has to
    learn when to stop.

    Raises:
        DataError: the template writes a message differently once others follow, so that what was learned would never
            be read again.
    """
    tokens: list[int] = []
    learned: list[bool] = []
    done = ""
    last = max(i for i, (role, _) in enumerate(messages) if role == "assistant")
    for i in (i for i, (role, _) in enumerate(messages) if role == "assistant"):
        before = template.render(messages[:i], answer=True)
        after = template.render(messages[: i + 1], answer=False)
        if not before.startswith(done) or not after.startswith(before):
            raise DataError(
                f"{template.source}: the chat template writes earlier messages of {id} in another way once an answer "
                "follows; name another form with data.template, or data.chat_template=recipe"
            )
        answer = encode(after[len(before) :])
        if i == last and separator_id not in answer:
            answer.append(separator_id)
        for piece, learn in ((encode(before[len(done) :]), False), (answer, True)):
            tokens += piece
            learned += [learn] * len(piece)
        done = after
    return Document(id, np.array(tokens, np.int32), np.array(learned, bool), opened=False)


def _text(token: object) -> str:
    """A special token's text; older files write a table around it."""
    token = token.get("content") if isinstance(token, dict) else token
    return token if isinstance(token, str) else ""

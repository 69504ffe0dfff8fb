"""Language models that write instruction data and judge answers, behind one small interface.

An address of any server that speaks OpenAI's protocol, the folder of one of our models, or one of transformers'. A
server's key is read from the environment, sent to that server alone, and written nowhere.
"""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar
from urllib.parse import urlsplit

from ssmlab.core.errors import UserError
from ssmlab.tasks.vision_language.writer_options import KEY, WriterOptions

Messages = Sequence[tuple[str, str]]  # (role, text); roles are system, user, assistant
T = TypeVar("T")
R = TypeVar("R")
_LOCAL = ("localhost", "127.0.0.1", "::1")
_THIS_ONE = (400, 413, 422)
_AGAIN = (408, 409, 429, 500, 502, 503, 504)


class Reply(NamedTuple):
    """What a model wrote. cut: it ended because it was as long as allowed."""

    text: str
    cut: bool = False


class RequestRefused(UserError):
    """A server does not take this one request: too long, against its rules, or no request that it knows."""


class Writer(Protocol):
    """A language model that answers messages. name: of the model, for notes and resumed files."""

    name: str

    def write(self, messages: Messages) -> Reply:
        """The answer. Raises UserError where there is none to be had."""
        ...


class ServerWriter:
    """A server that speaks OpenAI's protocol.

    Args:
        address: such as http://127.0.0.1:8000/v1.
        model: its name there; "" takes the only one that the server lists.
        temperature: 0 = greedy. max_tokens: of an answer. seed: sent along.
        timeout: seconds for one answer. attempts: how often a request is sent where the server is busy or away.
        key: the environment variable that holds the key.
    Raises:
        UserError: the address is none, or a key would travel unencrypted.
    """

    def __init__(
        self,
        address: str,
        model: str = "",
        *,
        temperature: float = 0.0,
        max_tokens: int = 1024,
        seed: int = 0,
        timeout: float = 300.0,
        attempts: int = 5,
        key: str = KEY,
    ):
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserError(f"{address!r} is no address of a server; such as http://127.0.0.1:8000/v1")
        if parts.username or parts.password or parts.query:
            raise UserError(f"the address of {parts.hostname} must hold no name, password or query; a key is {key}'s")
        local = parts.hostname in _LOCAL
        self._key = os.environ.get(key, "")
        if self._key and not local and parts.scheme != "https":
            raise UserError(f"{key} would travel to {parts.hostname} unencrypted; use https, or unset it")
        base = address.rstrip("/").removesuffix("/chat/completions")
        self.address = base if urlsplit(base).path.strip("/") else f"{base}/v1"
        self._settings = {"temperature": temperature, "max_tokens": max_tokens, "seed": seed}
        self._timeout, self._attempts = timeout, attempts
        handlers: list[urllib.request.BaseHandler] = [_NoRedirects()]
        if local:  # a proxy of the environment does not know this machine
            handlers.append(urllib.request.ProxyHandler({}))
        self._opener = urllib.request.build_opener(*handlers)
        self.name = model or self._only_model()

    def write(self, messages: Messages) -> Reply:
        """The answer.

        Raises:
            RequestRefused: the server does not take these messages.
            UserError: it refuses altogether, does not answer, or answers with something else.
        """
        chat = [{"role": role, "content": text} for role, text in messages]
        found = self._request("/chat/completions", {"model": self.name, "messages": chat, **self._settings})
        try:
            choice = found["choices"][0]
            text = choice["message"]["content"] or ""
            if not isinstance(text, str):
                raise TypeError
        except (LookupError, TypeError):
            raise UserError(
                f"{self.address} answers with something else than a chat's answer; is it a chat server?"
            ) from None
        return Reply(text, choice.get("finish_reason") == "length")

    def _only_model(self) -> str:
        found = self._request("/models", None).get("data")
        names = [row["id"] for row in found if isinstance(row, dict) and "id" in row] if isinstance(found, list) else []
        if len(names) != 1:
            raise UserError(f"{self.address} has {len(names)} models; name one ({', '.join(map(str, names[:8]))})")
        return str(names[0])

    def _request(self, path: str, content: dict[str, Any] | None) -> dict[str, Any]:
        body = None if content is None else json.dumps(content).encode()
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self._key}"} if self._key else {})
        reason = ""
        for attempt in range(self._attempts):
            if attempt:
                time.sleep(min(0.25 * 2**attempt, 30))
            request = urllib.request.Request(self.address + path, body, headers)
            try:
                with self._opener.open(request, timeout=self._timeout) as answer:
                    value = json.loads(answer.read())
            except urllib.error.HTTPError as error:
                reason = f"{error.code} {_told(error)}"
                if error.code not in _AGAIN:
                    kind = RequestRefused if error.code in _THIS_ONE else UserError
                    raise kind(f"{self.address} refuses: {reason}") from None
            except (OSError, ValueError) as error:  # no connection, cut off, no JSON
                reason = str(getattr(error, "reason", error)) or type(error).__name__
            else:
                if isinstance(value, dict):
                    return value
                reason = "no JSON object"
        raise UserError(f"{self.address} does not answer ({reason}), {self._attempts} times; see whether it runs")


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Another place than the one that the user names gets neither texts nor key."""

    def redirect_request(self, *args: Any, **others: Any) -> None:
        return None


def _told(error: urllib.error.HTTPError) -> str:
    """What a server says of an error, in a line."""
    try:
        said = json.loads(error.read(1 << 16))["error"]
        said = said["message"] if isinstance(said, dict) else said
    except (OSError, ValueError, LookupError, TypeError):
        said = error.reason
    return " ".join(str(said).split())[:200]


class ChatWriter:
    """One of our language models, greedy: a folder, a run's folder, fine-tuned on chats or with a chat template.

    Raises:
        UserError: it is none.
    """

    def __init__(self, model: str, *, max_tokens: int = 1024, device: str = "auto"):
        from ssmlab.tasks.language.chat import open_chat
        from ssmlab.tasks.language.options import WritingOptions

        self.name = Path(model).name
        self._chat = open_chat(model, device=device)
        self._options = WritingOptions(temperature=0, max_tokens=max_tokens, stream=False)

    def write(self, messages: Messages) -> Reply:
        """The answer."""
        from ssmlab.tasks.language.prompts import Prompt, write

        (row,) = write(self._chat, [Prompt(messages=tuple(messages))], self._options).rows
        return Reply(row.text, row.reason == "length")


class TransformersWriter:
    """A language model of transformers from a folder with a tokenizer that has a chat template; greedy.

    Raises:
        UserError: the folder cannot be opened, or has no chat template.
    """

    def __init__(self, folder: str, *, max_tokens: int = 1024, device: str = "auto"):
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from ssmlab.core.device import choose_compute

        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            self._model: Any = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            reason = (str(error).strip() or type(error).__name__).split("\n")[0]
            raise UserError(f"{folder}: transformers cannot open it as a language model ({reason})") from None
        if not self._tokenizer.chat_template:
            raise UserError(f"{folder}: its tokenizer has no chat template; take a model that follows instructions")
        self._model = self._model.to(choose_compute(device).device).eval()
        self.name, self._most = Path(folder).name, max_tokens

    def write(self, messages: Messages) -> Reply:
        """The answer."""
        import torch

        chat = [{"role": role, "content": text} for role, text in messages]
        ids = self._tokenizer.apply_chat_template(
            chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        ids = ids.to(self._model.device)
        with torch.inference_mode():
            out = self._model.generate(**ids, do_sample=False, max_new_tokens=self._most)
        new = out[0, ids["input_ids"].shape[1] :]
        return Reply(self._tokenizer.decode(new, skip_special_tokens=True), len(new) >= self._most)


def open_writer(place: str, options: WriterOptions | None = None, **given: Any) -> Writer:
    """A writer by an address, or by the folder of a model, ours first.

    Args:
        options: the fields of `WriterOptions` may also be given one by one.
    Raises:
        UserError: there is none.
    """
    options = WriterOptions.of(options, given, "open_writer")
    if "://" in place:
        return ServerWriter(place, options.model, temperature=options.temperature, max_tokens=options.max_tokens,
                            seed=options.seed, key=options.key)  # fmt: skip
    from ssmlab.checkpoints.files import HUGGING_FACE
    from ssmlab.checkpoints.hybrids import HYBRIDS
    from ssmlab.data.text.encoding import json_table

    folder = Path(place).expanduser()
    if not folder.is_dir():
        raise UserError(f"{place} is neither an address such as http://127.0.0.1:8000/v1 nor the folder of a model")
    kind = json_table(folder / "config.json").get("model_type")
    if isinstance(kind, str) and kind not in {*HUGGING_FACE, *HYBRIDS}:  # which our own readers know
        return TransformersWriter(str(folder), max_tokens=options.max_tokens, device=options.device)
    return ChatWriter(str(folder), max_tokens=options.max_tokens, device=options.device)


def in_order(work: Callable[[T], R], items: Iterable[T], workers: int) -> Iterator[R]:
    """`work` of every item on a few threads, results in the order of the items; no more than twice as many as threads
    are under way, so that little is lost where the program ends.

    Raises:
        what `work` raises, at the place of its item.
    """
    if workers <= 1:
        yield from map(work, items)
        return
    waiting: deque[Future[R]] = deque()
    pool = ThreadPoolExecutor(workers)
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) >= 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)

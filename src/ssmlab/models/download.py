"""Published weights on this machine: from the Hugging Face Hub's cache, from torch.hub's, or fetched into them.

Files are looked for where a user put them by hand, then in the caches, then on the network. A download that stopped
goes on where it was; what is damaged is deleted and never used. HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE are the hub's.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import zipfile
from contextlib import suppress
from pathlib import Path

from ssmlab.core.errors import ModelError
from ssmlab.core.files import read_json
from ssmlab.models.catalogue import (
    PublishedWeights,
    check_licence,
    find_weights,
    hand_placed,
    hub_address,
    is_repository,
    published,
    say_once,
    user_folder,
)
from ssmlab.models.entry import TIMM
from ssmlab.models.network import answer, check_hub

LARGE = 10 * 2**20  # bytes; files from here on are fetched so that a later call can go on
INDEX = ".index.json"
# names of weights files in a language model's folder, the first that is there is read
WEIGHTS = ("model.safetensors", f"model.safetensors{INDEX}", "pytorch_model.bin", f"pytorch_model.bin{INDEX}")
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "spiece.model")
MARIAN = ("source.spm", "target.spm", "vocab.json")  # the tokenizer of Marian's models
SETTINGS = ("tokenizer_config.json", "generation_config.json", "preprocess.json")


class Unreachable(ModelError):
    """A published file that is neither on this machine nor to be had from the network."""

    def __init__(self, address: str, placed: Path, error: BaseException):
        from huggingface_hub import constants

        self.reason = str(error).strip().split("\n")[0] or type(error).__name__
        if constants.is_offline_mode():
            self.reason = "HF_HUB_OFFLINE is set"
        super().__init__(
            f"{address} cannot be downloaded ({self.reason}); without a network, fetch it on another machine and put "
            f"it at {placed}"
        )


def local_folder(model: str | Path, *, accept_licence: bool = False) -> Path:
    """The folder of a language model: a path as it is; `owner/name`, or a name of the table, with its published files.

    A path wins over a name, which the log says. The folder has the weights, config.json and the tokenizer.

    Args:
        accept_licence: accept the licence, where one must be accepted.
    Raises:
        ModelError: there is neither, or it cannot be downloaded; the message has the address and where to put the file.
    """
    name, row = str(model), published(model)
    if Path(model).exists():
        return Path(model)
    if row is None and not is_repository(name):
        raise ModelError(f"there is no folder {name}, and nothing is published under that name; give owner/name")
    if row is not None:
        if row.classes:
            raise ModelError(f"{name} is a model of images, not a language model; give its name where one is expected")
        check_licence(row, accept_licence)
    elif not hand_placed(name, "config.json").is_file():
        say_once(f"the licence of {name} is on its page, {hub_address(name, '').partition('/resolve')[0]}")
    repository = name if row is None else row.repository
    try:
        return _language_folder(repository, row)
    except Unreachable as error:
        if row is None:
            page = hub_address(repository, "").replace("/resolve/", "/tree/").rstrip("/")
            wanted = (
                f"config.json, the weights ({WEIGHTS[0]} or {WEIGHTS[2]}, or all their parts with the {INDEX}) and, "
                f"for text, the tokenizer ({', '.join(TOKENIZERS[:-1])} or {TOKENIZERS[-1]}, and {SETTINGS[0]}) "
                f"of {page}"
            )
        else:
            tokenizer = hub_address(row.tokenizer or repository, TOKENIZERS[0])
            wanted = f"{hub_address(repository, 'config.json')}, {row.address} and, for text, {tokenizer}"
        raise ModelError(
            f"{name} cannot be downloaded ({error.reason}); without a network, fetch {wanted} on another machine and "
            f"put them into {hand_placed(repository, '')}"
        ) from None


def weights_file(name: str, *, accept_licence: bool = False) -> Path:
    """The published weights of a vision model, by our name, by its repository's, or `timm/<name>`.

    Raises:
        ModelError: none are published, or they cannot be downloaded.
    """
    if name.startswith(TIMM):
        import timm

        from ssmlab.models.vision.backbones import check_timm

        check_timm(name.removeprefix(TIMM))
        published = timm.get_pretrained_cfg(name.removeprefix(TIMM))
        if published is None or not published.hf_hub_id:
            raise ModelError(f"timm publishes no weights of {name} on the hub; give weights=FILE")
        path = hub_file(published.hf_hub_id, published.hf_hub_filename or "model.safetensors")
        if path is None:
            raise ModelError(f"{published.hf_hub_id} has no model.safetensors; give weights=FILE")
        return path
    row = find_weights(name)
    if row is None:
        raise ModelError(f"no weights of {name} are published where a program can fetch them; give weights=FILE")
    check_licence(row, accept_licence)
    if row.release:
        return _released(row)
    path = hub_file(row.repository, row.file)
    if path is None:
        raise ModelError(f"{row.address} is not there (any more); give weights=FILE")
    if row.sha256 and _digest(path, hashlib.sha256()) != row.sha256:
        if path == hand_placed(row.repository, row.file):
            raise ModelError(f"{path} is not the file of {row.address}: its SHA-256 is another; fetch it again")
        raise _damaged(path, row.address)
    return path


def hub_file(repository: str, file: str) -> Path | None:
    """A file of a repository on the Hugging Face Hub; None where the repository has no such file.

    Raises:
        ModelError: there is no such repository, it cannot be reached, or what came is damaged.
    """
    placed = hand_placed(repository, file)
    if placed.is_file():
        return placed
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HFValidationError,
        HTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    address = hub_address(repository, file)
    retries = logging.getLogger("huggingface_hub.utils._http")  # two lines for each of five tries; ours says it once
    level = retries.level
    retries.setLevel(logging.ERROR)
    try:
        try:
            check_hub(repository, address)
        except OSError:
            known = try_to_load_from_cache(repository, file)
            if not isinstance(known, str):
                raise
            path = Path(known)
        else:
            _go_on_with_large(repository, file, address)
            path = Path(hf_hub_download(repository, file, endpoint=os.environ.get("HF_ENDPOINT")))
    except GatedRepoError as error:
        raise ModelError(
            f"{repository} wants its terms accepted at {address.partition('/resolve')[0]}; do so, then `hf auth login`"
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise ModelError(f"there is no repository {repository} at {address}, or it is private") from error
    except LocalEntryNotFoundError as error:  # the hub's word for a network that is not there
        raise Unreachable(address, placed, error.__cause__ or error) from None
    except EntryNotFoundError:
        return None
    except (OSError, HTTPError) as error:
        raise Unreachable(address, placed, error) from None
    finally:
        retries.setLevel(level)
    _check(path, address)
    return path


def _go_on_with_large(repository: str, file: str, address: str) -> None:
    """Bring a large file to where the hub's client looks for it: the client itself begins anew in every call."""
    from huggingface_hub import constants, get_hf_file_metadata, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError
    from huggingface_hub.file_download import repo_folder_name
    from huggingface_hub.utils import WeakFileLock, build_hf_headers

    small = file.endswith((".json", ".model"))
    if small or constants.is_offline_mode() or isinstance(try_to_load_from_cache(repository, file), str):
        return
    try:
        about = get_hf_file_metadata(address)
    except EntryNotFoundError:
        return  # the client says so too, and remembers it
    if not about.etag or (about.size or 0) < LARGE:
        return
    blobs = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repository, repo_type="model") / "blobs"
    blobs.mkdir(parents=True, exist_ok=True)
    partial = blobs / f"{about.etag}.ssmlab.incomplete"
    with WeakFileLock(blobs / f".{about.etag}.ssmlab.lock"):
        if not (blobs / about.etag).exists():
            _go_on(address, partial, file, build_hf_headers())
            partial.replace(blobs / about.etag)


def _language_folder(repository: str, row: PublishedWeights | None) -> Path:
    placed = hand_placed(repository, "config.json")
    if placed.is_file():
        return placed.parent
    config = hub_file(repository, "config.json")
    if config is None:
        raise ModelError(f"{repository} has no config.json, so it is no language model that can be opened")
    found = [config]
    for name in WEIGHTS if row is None else (row.file,):
        if (path := _same_version(repository, name)) is not None:
            found.append(path)
            break
    else:
        raise ModelError(f"{repository} has no weights; one of {', '.join(WEIGHTS)} must be there")
    if found[-1].name.endswith(INDEX):
        index = found[-1]
        try:
            names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"{repository}: {index.name} is no index of weights files") from error
        if any(Path(str(name)).name != name for name in names):  # it comes from others, and shall lead nowhere else
            raise ModelError(f"{repository}: {index.name} names files outside of the repository's folder")
        parts = {name: _same_version(repository, name) for name in names}
        missing = ", ".join(name for name, path in parts.items() if path is None)
        if missing or not parts:
            raise ModelError(f"{repository}: {index.name} names {missing or 'no parts'}, which are not there")
        found += filter(None, parts.values())
    further = SETTINGS + (MARIAN if read_json(config).get("model_type") == "marian" else ())
    found += filter(None, (_same_version(repository, name) for name in further))
    tokenizers = (_same_version(repository, name) for name in TOKENIZERS)
    tokenizer = next(filter(None, tokenizers), None)
    if tokenizer is None and row is not None and row.tokenizer:
        tokenizer = hub_file(row.tokenizer, TOKENIZERS[0])
    found += [tokenizer] if tokenizer else []
    return _together(repository, found) if len({path.parent for path in found}) > 1 else config.parent


def _same_version(repository: str, file: str) -> Path | None:
    """A further file of a repository whose config.json was just looked up, from the cache where it has an answer.

    The cache remembers, by commit, which files a repository does not have. Without a network, what it does not know of
    is not there.
    """
    from huggingface_hub import constants, try_to_load_from_cache

    if hand_placed(repository, file).is_file():
        return hub_file(repository, file)
    known = try_to_load_from_cache(repository, file)
    if isinstance(known, str):
        _check(Path(known), hub_address(repository, file))
        return Path(known)
    if known is not None or (constants.is_offline_mode() and file not in WEIGHTS):
        return None
    return hub_file(repository, file)


def _together(repository: str, files: list[Path]) -> Path:
    """A folder with links to files of several repositories, which readers expect next to each other."""
    folder = user_folder("XDG_CACHE_HOME", ".cache") / "models" / repository
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        temporary = folder / f".{file.name}.{os.getpid()}"
        try:
            temporary.symlink_to(file.resolve())
        except OSError:  # file systems and users without links
            shutil.copyfile(file, temporary)
        temporary.replace(folder / file.name)
    for old in folder.iterdir():
        if not old.name.startswith(".") and old.name not in {file.name for file in files}:
            old.unlink()
    return folder


def _released(row: PublishedWeights) -> Path:
    """A file of a release, in torch.hub's cache; it gets its name there when it is whole."""
    placed = hand_placed(row.repository, row.file)
    if placed.is_file():
        return placed
    from huggingface_hub.errors import HTTPError
    from huggingface_hub.utils import WeakFileLock
    from torch.hub import get_dir

    target = Path(get_dir()) / "checkpoints" / row.file
    if target.is_file():
        return target
    partial = target.with_name(f"{target.name}.incomplete")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        if answer(row.release, follow=True) == 404:
            raise ModelError(f"{row.release} is not there (any more); give weights=FILE")
        with WeakFileLock(target.with_name(f".{target.name}.lock")):
            if not target.is_file():  # by another process, for which this one waited
                _go_on(row.release, partial, row.file)
                if not (_digest(partial, hashlib.sha256()) == row.sha256 if row.sha256 else _zip_is_whole(partial)):
                    raise _damaged(partial, row.release)
                partial.replace(target)
    except (OSError, HTTPError) as error:
        raise Unreachable(row.release, placed, error) from error
    return target


def _go_on(address: str, partial: Path, title: str, headers: dict[str, str] | None = None) -> None:
    """Fetch what a file still lacks."""
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.file_download import http_get

    with partial.open("ab") as file:
        try:
            http_get(address, file, resume_size=file.tell(), headers=headers, displayed_filename=title)
        except HfHubHTTPError as error:
            if error.response.status_code != 416:
                raise
            # there is nothing after the end: it was whole and not yet checked, or it is another file's; anew
            file.truncate(0)
            http_get(address, file, headers=headers, displayed_filename=title)


def _check(path: Path, address: str) -> None:
    """Compare a file of the hub's cache with the hash that it is kept under, once until it changes.

    The hub calls large files by their SHA-256 and small ones as git does; its client compares sizes alone.
    """
    blob = path.resolve()
    if not re.fullmatch(r"[0-9a-f]{64}|[0-9a-f]{40}", blob.name):
        return  # a cache without links, or a server with names of its own
    state = blob.stat()
    stamp = user_folder("XDG_CACHE_HOME", ".cache") / "checked" / blob.name
    seen = f"{state.st_size} {state.st_mtime_ns}"
    if stamp.is_file() and stamp.read_text("utf-8") == seen:
        return
    if len(blob.name) == 64:
        found = _digest(blob, hashlib.sha256())
    else:
        found = _digest(blob, hashlib.sha1(b"blob %d\0" % state.st_size, usedforsecurity=False))
    if found != blob.name:
        raise _damaged(path, address)
    with suppress(OSError):  # where nothing can be written, it is compared every time
        stamp.parent.mkdir(parents=True, exist_ok=True)
        stamp.write_text(seen, "utf-8")


def _digest(path: Path, digest) -> str:
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _zip_is_whole(path: Path) -> bool:
    """Whether every part of a zip has its checksum, as in the files of torch.save; other files have none to compare."""
    try:
        if not zipfile.is_zipfile(path):
            with path.open("rb") as file:
                return file.read(2) != b"PK"
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (zipfile.BadZipFile, EOFError):
        return False


def _damaged(path: Path, address: str) -> ModelError:
    for file in (path.resolve(), path):  # the hub's cache has a link and what it leads to
        file.unlink(missing_ok=True)
    return ModelError(f"what came from {address} is damaged and was deleted; run the same again")

"""Configuration and weights of a checkpoint in the original's layout: a local folder, or a name on Hugging Face."""

import json
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors.torch import load_file
from torch import Tensor

from ssmlab.core.errors import UserError
from ssmlab.models.network import check_hub

__all__ = ["load_config_hf", "load_state_dict_hf"]
CONFIG, WEIGHTS = "config.json", ("pytorch_model.bin", "model.safetensors")


def load_config_hf(model_name) -> dict[str, Any]:
    """config.json of a folder or a repository."""
    path = _found(model_name, (CONFIG,))
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from error


def load_state_dict_hf(model_name, device=None, dtype=None) -> dict[str, Tensor]:
    """pytorch_model.bin or model.safetensors of a folder or a repository; no code in a file is run.

    Args:
        device: where the tensors go. dtype: of the floating-point ones; None: the file's.
    """
    path = _found(model_name, WEIGHTS)
    if path.suffix == ".safetensors":
        state = load_file(path)
    else:
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged file raises whatever its bytes lead to
            raise UserError(f"{path} holds no weights that torch can read: {str(error).splitlines()[0]}") from error
    return {k: t.to(device=device, dtype=dtype if t.is_floating_point() else None) for k, t in state.items()}


def _found(name, files: tuple[str, ...]) -> Path:
    """The first of the files that is there."""
    folder = Path(name)
    if folder.is_dir():
        for file in files:
            if (folder / file).is_file():
                return folder / file
        raise UserError(f"the folder {name} has no {' or '.join(files)}; give one that save_pretrained has written")
    for file in files:
        try:
            if not isinstance(try_to_load_from_cache(str(name), file), str):
                check_hub(str(name), f"{constants.ENDPOINT}/{name}/resolve/main/{file}")
            return Path(hf_hub_download(str(name), file))
        except LocalEntryNotFoundError as error:
            reason = "there is no network, or it is switched off, and the file is not in the cache"
            cause: Exception = error
        except EntryNotFoundError as error:
            reason, cause = f"{name} has no such file", error
            continue
        except (HFValidationError, HfHubHTTPError, OSError) as error:
            reason, cause = str(error).split("\n")[0], error
        break
    raise UserError(
        f"{constants.ENDPOINT}/{name}/resolve/main/{files[0]} cannot be had: {reason}; put it and {CONFIG} into a "
        "folder and give that"
    ) from cause

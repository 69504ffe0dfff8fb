"""Networks without memory for their weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

import torch


@contextmanager
def on_meta() -> Iterator[None]:
    """What is built here takes no memory, and what builds it may be imported here.

    torch 2.8 cannot import its compiler, which torchvision and so timm bring, while new tensors go to the meta device.
    """
    if torch.__version__ < "2.14":
        import_module("torch._dynamo")
    with torch.device("meta"):
        yield

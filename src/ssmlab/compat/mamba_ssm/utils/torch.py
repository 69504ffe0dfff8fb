"""Decorators for autograd functions under autocast, for every version of torch."""

from collections.abc import Callable

import torch

__all__ = ["custom_amp_decorator", "custom_bwd", "custom_fwd", "deprecated"]
deprecated = True  # the names in torch.cuda.amp


def custom_amp_decorator(dec: Callable, cuda_amp_deprecated: bool) -> Callable:
    """`dec`, with the device named where it has to be."""

    def decorator(*args, **kwargs):
        return dec(*args, **(kwargs | {"device_type": "cuda"} if cuda_amp_deprecated else kwargs))

    return decorator


custom_fwd = custom_amp_decorator(torch.amp.custom_fwd, deprecated)
custom_bwd = custom_amp_decorator(torch.amp.custom_bwd, deprecated)

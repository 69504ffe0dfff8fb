"""A function that Triton kernels of the original call."""

from ssmlab.compat._absent import absent

TRITON3 = True
__getattr__ = absent(__name__, "softplus", "call torch.nn.functional.softplus, or tl.log(1 + tl.exp(x)) in a kernel")

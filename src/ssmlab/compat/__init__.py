"""`mamba_ssm` and `causal_conv1d` as importable names on our kernels, so that other people's models run unchanged.

    import ssmlab.compat
    ssmlab.compat.install()          # before the code that imports mamba_ssm, causal_conv1d or transformers' models

or, without touching the code, `ssmlab exec SCRIPT [ARGS]`. The packages under this one carry the originals' names; a
finder in `sys.meta_path` lends them to `import mamba_ssm` where no real installation has that name.
"""

from ssmlab.compat.importing import PACKAGES, Provider, install, providers, uninstall

__all__ = ["PACKAGES", "Provider", "install", "providers", "uninstall"]

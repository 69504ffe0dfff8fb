"""Files as they are found after writing."""

import os
import stat

import pytest
import torch

from ssmlab.core.files import write_file, write_tensors


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
def test_weights_have_the_mode_of_any_new_file(tmp_path):
    (tmp_path / "plain").write_text("")
    write_tensors(tmp_path / "w.safetensors", {"a": torch.ones(1)})
    modes = [stat.S_IMODE(os.stat(tmp_path / name).st_mode) for name in ("plain", "w.safetensors")]
    assert modes[0] == modes[1]


def test_what_cannot_be_written_leaves_nothing(tmp_path):
    def fails(path):
        path.write_text("half")
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        write_file(tmp_path / "a", fails)
    assert not list(tmp_path.iterdir())

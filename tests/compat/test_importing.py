"""Who answers to the originals' names, and that a real installation keeps them."""

import importlib
import importlib.util
import logging
import subprocess
import sys

import pytest

import ssmlab.compat


def test_nobody_answers_before():
    assert {p.provider for p in ssmlab.compat.providers()} == {"nobody"}
    assert importlib.util.find_spec("mamba_ssm") is None


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("mamba_ssm", "Mamba mamba_inner_fn selective_scan_fn selective_state_update mamba_chunk_scan_combined"),
        ("mamba_ssm.ops.selective_scan_interface",
         "selective_scan_fn selective_scan_ref mamba_inner_fn mamba_inner_ref mamba_inner_fn_no_out_proj "
         "bimamba_inner_fn bimamba_inner_ref"),
        ("mamba_ssm.ops.triton.selective_state_update", "selective_state_update selective_state_update_ref"),
        ("mamba_ssm.ops.triton.ssd_combined",
         "mamba_chunk_scan_combined mamba_split_conv1d_scan_combined ssd_chunk_scan_combined_ref "
         "mamba_split_conv1d_scan_ref ssd_selective_scan mamba_conv1d_scan_ref mamba_chunk_scan"),
        ("mamba_ssm.ops.triton.layernorm_gated", "layernorm_fn rmsnorm_fn rms_norm_ref LayerNorm RMSNorm"),
        ("mamba_ssm.ops.triton.layer_norm", "layer_norm_fn rms_norm_fn RMSNorm"),
        ("mamba_ssm.ops.triton.layernorm", "layer_norm_fn rms_norm_fn RMSNorm"),
        ("mamba_ssm.modules.mamba_simple", "Mamba"),
        ("causal_conv1d", "causal_conv1d_fn causal_conv1d_update"),
        ("causal_conv1d.causal_conv1d_interface",
         "causal_conv1d_fn causal_conv1d_ref causal_conv1d_update causal_conv1d_update_ref"),
        ("causal_conv1d.causal_conv1d_varlen", "causal_conv1d_varlen_states causal_conv1d_varlen_states_ref"),
        ("causal_conv1d.cpp_functions", "causal_conv1d_fwd_function causal_conv1d_bwd_function"),
        ("causal_conv1d_cuda", "causal_conv1d_fwd causal_conv1d_bwd causal_conv1d_update"),
        ("selective_scan_cuda", "fwd bwd"),
        ("selective_scan_cuda_core", "fwd bwd"),
        ("selective_scan_cuda_oflex", "fwd bwd"),
    ],
)  # fmt: skip
def test_names(installed, module, names):
    found = importlib.import_module(module)
    assert [name for name in names.split() if not callable(getattr(found, name, None))] == []
    assert importlib.util.find_spec(module) is not None
    assert found is importlib.import_module(f"ssmlab.compat.{module}"), "one module under two names"


def test_what_is_not_there_says_whose_fault_it_is(installed):
    with pytest.raises(ModuleNotFoundError, match=r"mamba_ssm\.ops\.nothing has no counterpart in ssmlab"):
        importlib.import_module("mamba_ssm.ops.nothing")


def test_install_twice_is_install_once(installed):
    length = len(sys.meta_path)
    ssmlab.compat.install()
    assert len(sys.meta_path) == length
    assert {p.provider for p in ssmlab.compat.providers()} == {"ssmlab"}


@pytest.fixture
def real(tmp_path, monkeypatch):
    (tmp_path / "mamba_ssm").mkdir()
    (tmp_path / "mamba_ssm" / "__init__.py").write_text("who = 'the real one'\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    ssmlab.compat.uninstall()
    sys.modules.pop("mamba_ssm", None)


def test_a_real_installation_keeps_its_name(real, caplog):
    with caplog.at_level(logging.WARNING):
        found = {p.name: p.provider for p in ssmlab.compat.install()}
    assert found["mamba_ssm"] == "installed" and found["causal_conv1d"] == "ssmlab"
    assert importlib.import_module("mamba_ssm").who == "the real one"
    assert "mamba_ssm: the installed one" in caplog.text


def test_force_replaces_it(real):
    assert importlib.import_module("mamba_ssm").who == "the real one"
    found = {p.name: p.provider for p in ssmlab.compat.install(force=True)}
    assert found["mamba_ssm"] == "ssmlab"
    assert not hasattr(importlib.import_module("mamba_ssm"), "who")


def test_an_older_transformers_is_told(monkeypatch, caplog):
    monkeypatch.setattr("ssmlab.compat.importing._version", lambda name: "5.2.1" if name == "transformers" else "1")
    with caplog.at_level(logging.WARNING):
        ssmlab.compat.install()
    ssmlab.compat.uninstall()
    assert "transformers 5.2.1 does not look for these kernels" in caplog.text


def test_import_is_light():
    code = "import ssmlab.compat, sys; ssmlab.compat.install(linear=False); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_install_says_once_what_it_lends_and_replaces(capsys):
    ssmlab.compat.install(linear=True)
    said = capsys.readouterr().err
    ssmlab.compat.install()
    assert "lends mamba_ssm, causal_conv1d" in said and "torch.nn.Linear" in said and said.count("\n") == 1
    assert not capsys.readouterr().err
    ssmlab.compat.uninstall()
    ssmlab.compat.install(linear=False)
    assert "torch.nn.Linear" not in capsys.readouterr().err
    ssmlab.compat.uninstall()
    ssmlab.compat.install(quiet=True)
    ssmlab.compat.uninstall()
    assert not capsys.readouterr().err

"""The programs of benchmarks/ run and print what they promise; the numbers are for idle machines."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def printed(program: str, *arguments: str) -> str:
    command = [sys.executable, str(BENCHMARKS / program), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.slow
def test_linear():
    lines = printed("linear.py", "--repeats", "1").splitlines()
    rows = [line.split(" | ") for line in lines if line.count(" | ") == 4][1:]
    assert len(rows) == 12 and all(float(row[-1]) > 0 for row in rows)


@pytest.mark.slow
def test_memory():
    lines = printed("memory.py", "--model", "mamba_lm_test", "--repeats", "1").splitlines()
    assert [line.split(", ")[1] for line in lines if "tokens read" in line] == ["float32"] * 2 + ["bfloat16"] * 2
    assert sum(line.startswith("weights and state: ") for line in lines) == 2


@pytest.mark.slow
def test_translate():
    """CTranslate2 on our Transformer, where it is installed, says what ours does, and all are timed."""
    other = [] if importlib.util.find_spec("ctranslate2") else ["--no-ctranslate2"]
    names = ["--transformer", "translation_transformer_test", "--model", "translation_mamba_test"]
    sizes = ["--vocabulary", "61", "--repeats", "1", "--longest", "64"]
    lines = printed("translate.py", *names, *sizes, *other).splitlines()
    timed = [line.split(" | ") for line in lines if "tokens/s" in line]
    assert len(timed) == 3 * (4 if other else 6) and all(" x CTranslate2, int8" in line[-1] or other for line in timed)
    assert other or "32 of 32 translations of CTranslate2 are ours" in lines[1]
    assert [line.split(" | ")[1].strip() for line in lines if "given tokens" in line] == names[1::2]


@pytest.mark.slow
def test_kernels():
    pytest.importorskip("triton")
    rows = [line.split(" | ") for line in printed("kernels.py").splitlines() if line.count(" | ") >= 5][1:]
    assert [row[0].strip() for row in rows].count("scan_backward") == 4  # of three sizes; one has two passes
    assert all(float(row[6]) > 5 for row in rows if row[0].startswith("scan"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["accuracy", "dice", "groups"])
def test_verdicts_name_no_winner_where_there_is_none(kind):
    """At most 5 % of comparisons, and what chance makes of 300 of them. benchmarks/verdicts.py makes 2,000."""
    verdicts = loaded("verdicts")
    for cases, seeds, spread in ((6, 1, 0.0), (20, 1, 0.0), (20, 2, 0.3), (50, 3, 0.3), (500, 1, 0.0)):
        runs = 300 if cases < 500 else 100
        found = verdicts.rate(verdicts.Setting(kind, cases, seeds, spread), runs, seed=1)
        assert found <= 0.05 + 2 * (0.05 * 0.95 / runs) ** 0.5, (cases, seeds)


@pytest.mark.slow
def test_verdicts_find_what_is_there():
    verdicts = loaded("verdicts")
    for seeds in (1, 2, 3, 5):
        assert verdicts.rate(verdicts.Setting("plain", 50, seeds, effect=0.6), 200, seed=1) >= 0.8


def loaded(name):
    spec = importlib.util.spec_from_file_location(f"{name}_benchmark", BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(os.name == "nt", reason="starts a script by its first line")
def test_llama_cpp_is_asked_for_what_is_compared(tmp_path):
    spec = importlib.util.spec_from_file_location("decode_benchmark", BENCHMARKS / "decode.py")
    decode = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(decode)
    program = tmp_path / "llama-bench"
    program.write_text(
        f"#!{sys.executable}\nimport json, pathlib, sys\n"
        f"pathlib.Path({str(tmp_path / 'asked')!r}).write_text(json.dumps(sys.argv[1:]))\n"
        "print(json.dumps([{'avg_ts': 286.5}]))\n"
    )
    program.chmod(0o755)
    theirs = decode.LlamaCpp(str(program), "f32.gguf", threads=2)
    assert decode.speed_of(theirs, 1024, 0, None, {}, "llama.cpp, float32") == 286.5
    asked = json.loads((tmp_path / "asked").read_text())
    assert asked[asked.index("-p") + 1] == "1024" and asked[asked.index("-n") + 1] == "0" and "f32.gguf" in asked

"""Run golden cases of the original implementations: `python tests/parity.py FOLDER`.

FOLDER is the root of a set of cases (with `fill.py`) or one family's folder in it. Prints each case's largest error
over its tolerance and exits with 1 where one is above 1 or a family is unknown. `--record FILE` writes what
`ssmlab models --parity` shows, src/ssmlab/checkpoints/parity.json.
"""

import argparse
import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from parity_language import run_language, run_mamba3
from parity_models import check_model, run_images, run_segmenter
from ssmlab.ops import Mamba3State, causal_conv1d, cross_merge, cross_scan, mamba3, selective_scan, ssd
from ssmlab.ops.mamba3.parts import rates, turn

Found = dict[str, torch.Tensor]


def run_selective_scan(case: dict, inputs: Found) -> Found:
    if "state" in inputs:
        return _scan_step(case, inputs)
    names = {"u": "x", "delta": "dt", "delta_bias": "dt_bias"}
    arguments = {names.get(name, name): tensor for name, tensor in inputs.items()}
    y, state = selective_scan(**arguments, dt_softplus=case["options"]["delta_softplus"])
    return {"out": y, "last_state": state}


def _scan_step(case: dict, inputs: Found) -> Found:
    """One token: heads and their channels are channels, the groups of B and C stay groups."""
    i = dict(inputs)
    state, shape = i.pop("state"), i["x"].shape
    flat = {k: i[k].flatten(1)[..., None] for k in ("x", "dt", "z")}
    per_channel = {k: i[k].flatten() for k in ("D", "dt_bias")}
    B, C = (i[k][..., None] for k in "BC")
    A, state_in = i["A"].reshape(-1, i["A"].shape[-1]), state.reshape(shape[0], -1, state.shape[-1])
    softplus = case["options"]["dt_softplus"]
    y, after = selective_scan(**flat, A=A, B=B, C=C, **per_channel, dt_softplus=softplus, initial_state=state_in)
    return {"out": y.reshape(shape), "state_after": after.reshape(state.shape)}


def run_causal_conv1d(case: dict, inputs: Found) -> Found:
    i, activation = dict(inputs), case["options"]["activation"]
    if "conv_state" in i:
        state, width = i.pop("conv_state"), i["weight"].shape[1]
        x = i.pop("x")
        tokens = x if x.dim() == 3 else x[..., None]
        y, _ = causal_conv1d(
            tokens, **i, activation=activation, initial_state=state[..., state.shape[-1] - width + 1 :]
        )
        after = torch.cat([state, tokens], dim=-1)[..., -state.shape[-1] :]
        return {"out": y.reshape(x.shape), "conv_state_after": after}
    if "initial_states" in i:
        i["initial_state"] = i.pop("initial_states")
    lengths = case["options"].get("seq_lens")
    if lengths:
        i["seq_idx"] = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))[None]
    y, state = causal_conv1d(**i, activation=activation)
    return {"out": y, "final_states": state}


# VMamba's `scans`: which of the four directions each of its four sequences is.
SEQUENCES = {0: [0, 1, 2, 3], 1: [0, 0, 0, 0], 2: [0, 0, 2, 2]}


def run_vmamba_ops(case: dict, inputs: Found) -> Found:
    if "u" in inputs:
        return run_selective_scan(case, inputs)
    options = case["options"]
    map_first, sequences_first = options["in_channel_first"], options["out_channel_first"]
    sequences = SEQUENCES[options["scans"]]
    if "x" in inputs:
        x = inputs["x"] if map_first else inputs["x"].permute(0, 3, 1, 2)
        y = cross_scan(x)[:, sequences]
        return {"out": y if sequences_first else y.permute(0, 3, 1, 2)}
    y = inputs["y"] if sequences_first else inputs["y"].permute(0, 3, 4, 1, 2)  # (b, 4, d, h, w)
    four = torch.zeros_like(y).index_add(1, torch.tensor(sequences), y)
    merged = cross_merge(four.flatten(3), *y.shape[3:]).flatten(2)
    return {"out": merged if map_first else merged.mT}


def run_mamba2_ops(case: dict, inputs: Found) -> Found:
    i, options = dict(inputs), case["options"]
    if "state" in i:
        return _scan_step(case, inputs)
    if "zxbcdt" in i:
        return {"out": _split_conv1d_scan(options, **i)}
    if "X" in i:  # A is the log decay of a step, X has been multiplied by dt
        dt = -i["A"]
        arguments = {"x": i["X"] / dt[..., None], "dt": dt, "A": -torch.ones(dt.shape[2]), "B": i["B"], "C": i["C"]}
        state = i["initial_states"].squeeze(1) if "initial_states" in i else None
        y, state = ssd(**arguments, initial_state=state, chunk_size=options["block_len"])
        return {"out": y, "final_state": state}
    softplus = options["dt_softplus"]
    if "dt_limit" in options:
        dt = i.pop("dt").float() + i.pop("dt_bias", torch.zeros(()))
        i["dt"], softplus = (F.softplus(dt) if softplus else dt).clamp(*options["dt_limit"]), False
    if "initial_states" in i:
        i["initial_state"] = i.pop("initial_states")
    chunk = {"chunk_size": options["chunk_size"]} if "chunk_size" in options else {}
    y, state = ssd(**i, dt_softplus=softplus, **chunk)
    return {"out": y, "final_state": state}


def _split_conv1d_scan(
    options: dict, zxbcdt, conv1d_weight, conv1d_bias, dt_bias, A, D, outproj_weight=None, rmsnorm_weight=None
) -> torch.Tensor:
    """Everything between the two projections of Mamba-2, and the second; the norm is over all channels."""
    heads, groups = len(dt_bias), options["ngroups"]
    inner = heads * options["headdim"]
    z, xBC, dt = zxbcdt.split([inner, len(conv1d_weight), heads], dim=-1)
    xBC, _ = causal_conv1d(xBC.mT, conv1d_weight, conv1d_bias, activation="silu")
    map_ = (len(conv1d_weight) - inner) // 2
    x, B, C = xBC.mT.split([inner, map_, map_], dim=-1)
    x, B, C = x.unflatten(-1, (heads, -1)), B.unflatten(-1, (groups, -1)), C.unflatten(-1, (groups, -1))
    gate = None if rmsnorm_weight is not None else z.unflatten(-1, (heads, -1))
    y = ssd(x, dt, A, B, C, D, z=gate, dt_bias=dt_bias, dt_softplus=True)[0].flatten(2)
    if rmsnorm_weight is not None:
        before = options["norm_before_gate"]
        y = F.rms_norm(y if before else y * F.silu(z), (inner,), rmsnorm_weight, options["rmsnorm_eps"])
        y = y * F.silu(z) if before else y
    return y if outproj_weight is None else F.linear(y, outproj_weight)


def run_mamba3_ops(case: dict, inputs: Found) -> Found:
    i = dict(inputs)
    if "angle_proj" in i:
        pairs = "interleaved" if case["options"]["rotate_pairwise"] else "halves"
        theta = i["angle_state"] + rates(i["angle_proj"][:, None], torch.float32)[:, 0] * i["dt"][..., None]
        q, k = (turn(i[name] + i[f"bias_{name}"], theta[:, None], pairs) for name in "qk")
        return {"out": q, "k": k, "angle_state": theta}
    mimo = {f"mimo_{name[-1].lower()}": i[name] for name in ("MIMO_Z", "MIMO_O") if name in i}
    B, C, biases = i["K"], i["Q"], {"B_bias": i["K_bias"], "C_bias": i["Q_bias"]}
    states = [i[f"{name}_State"] for name in ("Angle", "SSM", "K", "V")] if "K_State" in i else None
    if "MIMO_V" in i:
        mimo["mimo_x"] = i["MIMO_V"]
    else:
        B, C, biases = B.unsqueeze(2), C.unsqueeze(2), {name: bias.unsqueeze(1) for name, bias in biases.items()}
        states = states and [*states[:2], *(t.unsqueeze(2) for t in states[2:])]
    y, state = mamba3(
        i["V"], i["DT"].mT, i["ADT"].mT, i["Trap"].mT, B, C, i["Angles"], i.get("D"), z=i.get("Z"), **biases, **mimo,
        initial_state=states and Mamba3State(*states),
    )  # fmt: skip
    found = {"out": y, **{f"{name}_state": part for name, part in state._asdict().items()}}
    return found if "MIMO_V" in i else found | {name: found[name].squeeze(2) for name in ("k_state", "v_state")}


RUNNERS: dict[str, Callable[[dict, Found], Found]] = {
    "selective_scan": run_selective_scan,
    "causal_conv1d": run_causal_conv1d,
    "vmamba_ops": run_vmamba_ops,
    "mamba2_ops": run_mamba2_ops,
    "mamba3_ops": run_mamba3_ops,
}


MODEL_RUNNERS = dict.fromkeys(("mambavision", "medmamba", "vim", "vmamba"), run_images)
MODEL_RUNNERS |= dict.fromkeys(("mamba1", "mamba2"), run_language)
MODEL_RUNNERS["mamba3"] = run_mamba3
MODEL_RUNNERS |= dict.fromkeys(("umamba", "resenc_unet"), run_segmenter)


def check_case(root: Path, path: Path, fill) -> tuple[float, str]:
    """The largest error over its tolerance, and where it is."""
    case = json.loads(path.read_text())
    if case["family"] in MODEL_RUNNERS:
        return check_model(root, case, fill, MODEL_RUNNERS[case["family"]])
    gold = load_file(root / case["file"])
    inputs = {name: fill.make_input(spec) for name, spec in case["inputs"].items()}
    wanted = case.get("gradients", {}).get("of", [])
    for name in wanted:
        inputs[name].requires_grad_()
    found = RUNNERS[case["family"]](case, inputs)
    worst = (0.0, "nothing compared")
    for name in case["outputs"]:
        atol, rtol = case["tolerance"]["atol"][name], case["tolerance"]["rtol"]
        worst = max(worst, (_excess(found[name], gold[name], atol, rtol), name))
    if wanted:
        out = found["out"]
        (out.float() * fill.uniform(case["fill_prefix"] + "loss", out.shape)).sum().backward()
        for name in wanted:
            atol, rtol = case["tolerance"]["grad_atol"][name], case["tolerance"]["rtol"]
            worst = max(worst, (_excess(inputs[name].grad, gold[f"grad.{name}"], atol, rtol), f"grad.{name}"))
    return worst


def _excess(value: torch.Tensor, gold: torch.Tensor, atol: float, rtol: float) -> float:
    value = torch.view_as_real(value) if value.is_complex() else value
    assert value.shape == gold.shape, f"shape {tuple(value.shape)}, the original has {tuple(gold.shape)}"
    error, allowed = (value.detach().double() - gold.double()).abs(), atol + rtol * gold.double().abs()
    excess = torch.where(error == 0, 0.0, error / allowed)  # where the original is exactly zero, so must we be
    return float(torch.nan_to_num(excess, nan=torch.inf).max()) if error.numel() else 0.0


def cases_in(folder: Path) -> tuple[Path, list[Path]]:
    """The root that `file` entries are relative to, and every case."""
    root = folder if (folder / "fill.py").exists() else folder.parent
    if not (root / "fill.py").exists():
        raise SystemExit(f"{folder}: no fill.py there or above; give the folder of a set of golden cases")
    return root, [p for p in sorted(folder.rglob("*.json")) if "manifests" not in p.parts]


def load_fill(root: Path):
    spec = importlib.util.spec_from_file_location("parity_fill", root / "fill.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def record(file: Path, cases: list[tuple[dict, float, str]]) -> None:
    """Write every family's number of cases, its worst one, and where the original stands."""
    from ssmlab.core.stamp import commit, now, versions

    families: dict[str, dict] = {}
    for case, worst, where in cases:
        row = families.setdefault(case["family"], {"cases": 0, "passed": 0, "worst": 0.0, "where": "", "originals": []})
        row["cases"] += 1
        row["passed"] += worst <= 1
        if worst >= row["worst"]:
            row["worst"], row["where"] = round(worst, 4), f"{case['case']}: {where}"
        original = [case["source"]["repo"], case["source"]["commit"]]
        row["originals"] += [] if original in row["originals"] else [original]
    content = {"date": now(), "commit": commit(), "versions": versions(), "families": dict(sorted(families.items()))}
    file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--record", type=Path, metavar="FILE", help="write the worst error of every family as JSON")
    options = parser.parse_args()
    root, paths = cases_in(options.folder)
    fill, failures, unknown, done = load_fill(root), 0, {}, []
    for path in paths:
        family = json.loads(path.read_text())["family"]
        if family not in RUNNERS and family not in MODEL_RUNNERS:
            unknown[family] = unknown.get(family, 0) + 1
            continue
        worst, where = check_case(root, path, fill)
        done.append((json.loads(path.read_text()), worst, where))
        failures += worst > 1
        print(f"{'ok  ' if worst <= 1 else 'FAIL'} {family}/{path.stem}: {worst:.3f} of the tolerance ({where})")
    for family, count in unknown.items():
        print(f"FAIL {family}: unknown family, {count} cases not run")
    print(f"{len(paths) - failures - sum(unknown.values())} passed, {failures + sum(unknown.values())} failed")
    if options.record:
        record(options.record, done)
    return 1 if failures or unknown or not paths else 0


if __name__ == "__main__":
    sys.exit(main())

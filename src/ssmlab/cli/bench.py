"""`ssmlab bench`: how fast the operators are here, against other code and against the machine itself."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True)
OPS = ("selective_scan", "causal_conv1d", "directional_scan", "ssd", "lti")
DEVICES = ("cpu", "cuda")
SUITES = ("ops", "first", "language", "vision")


@app.callback()
def main() -> None:
    """Measure this machine: correctness first, then time."""


@app.command("ops")
def bench_ops(
    op: Annotated[
        list[str], typer.Option(help="An operator; give it again for another.", metavar="|".join(OPS))
    ] = list(OPS),  # noqa: B006  Typer copies it
    quick: Annotated[bool, typer.Option("--quick", help="A few small shapes: seconds instead of minutes.")] = False,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    suite: Annotated[
        list[str] | None,
        typer.Option(help="What is measured; again for another. Default: ops; on cuda all.", metavar="|".join(SUITES)),
    ] = None,
    threads: Annotated[int, typer.Option(min=0, help="Threads on the CPU; 0: as many as torch takes.")] = 0,
    seconds: Annotated[
        float, typer.Option(min=0.0, help="Time for the repeats of a shape, by all that compute it.")
    ] = 0.2,
    limit: Annotated[
        float, typer.Option(min=0.0, help="Seconds; what would take longer for a call is skipped and estimated.")
    ] = 0.5,
    output: Annotated[
        Path, typer.Option(help="Folder of the tables, records and plots; those of an earlier time are replaced.")
    ] = Path("runs/bench-ops"),
) -> None:
    """Time every operator against its reference, mambapy, transformers, torch.exp and a copy.

    On a GPU the opponents are mamba_ssm, causal_conv1d and flash-linear-attention where they are installed, and the
    yardsticks exponentials in registers and attention; the lti has no kernel there and is left out. After the operators
    come their first calls, which compile; language models of 130m, 1.4b and 2.8b parameters, tokens a second of a
    training step and of decoding; and vision models at 224 x 224 pixels next to timm's, images a second.

    First every backend is compared with the reference in float64; if one is wrong, nothing is timed and the exit code
    is 1. What computes a shape is timed in turns in one process.
    """
    chosen = suite or (list(SUITES) if device == "cuda" else ["ops"])
    _check(op, device, chosen)
    from ssmlab.core.display import Display

    display = Display()
    try:
        settings, rows, verdicts = _measure(
            display, op if "ops" in chosen else [], quick, device, threads, seconds, limit
        )
        results = _suites(display, chosen, op, quick, device, seconds)
    except KeyboardInterrupt:
        display.stop()
        display.say("interrupted; nothing was written")
        raise typer.Exit(130) from None
    finally:
        display.stop()
    _show(display, rows, verdicts, results)
    _write(output, settings, rows, verdicts, results)
    display.say(f"table, records, plots and settings: {output}")


def _check(ops: list[str], device: str, suites: list[str]) -> None:
    """What can be reported before torch is imported comes first."""
    from difflib import get_close_matches

    from ssmlab.core.errors import UserError

    for what, given, known in (("operator", ops, OPS), ("suite", suites, SUITES)):
        for name in given:
            if name not in known:
                close = get_close_matches(name, known, 1)
                hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"
                raise UserError(f"unknown {what} {name!r}; {hint}")
    if device not in DEVICES:
        raise UserError(f"--device must be cpu or cuda, got {device!r}")
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise UserError("there is no CUDA device here, or this torch cannot use it; leave --device cuda out")


def _measure(display, ops, quick, device, threads, seconds, limit):
    """What every time depends on, the rows and the verdicts; exit code 1 where a backend of ours is wrong."""
    import shlex
    import sys

    import torch

    from ssmlab.cli.selftest import self_test
    from ssmlab.core.stamp import commit, machine, now, versions
    from ssmlab.ops import _native
    from ssmlab.profiling import bench
    from ssmlab.profiling.bench.opponents import package_version

    if threads:
        torch.set_num_threads(threads)
    settings = {
        "command": shlex.join(["ssmlab", *sys.argv[1:]]),
        "commit": commit(),
        "machine": machine(device),
        "versions": f"{versions()}, mambapy {package_version('mambapy') or 'not installed'}",
        "instructions": f"PyTorch {torch.backends.cpu.get_cpu_capability()}, native {_native.isa() or 'none'}",
        "threads": torch.get_num_threads(),
        "device": device,
        "started": now(),
        "quick": quick,
        "ops": ops,
        "seconds_per_shape": seconds,
        "skip_above": limit,
    }
    for name in ("machine", "versions", "instructions", "threads", "commit"):
        display.say(f"{name:13} {settings[name]}")
    grid = bench.gpu.shapes if device == "cuda" else bench.grid
    shapes = [shape for op in OPS if op in ops for shape in grid(op, quick=quick)]
    wrong = [
        f"{test.op} {test.backend}: outputs {test.output_error:.1e}, gradients {test.gradient_error:.1e}"
        for test in self_test()
        if not test.passed
    ]
    found = bench.disagreements(shapes, device)
    wrong += [f"{case.op} {case.candidate}, {case.dtype}: {case.what}" for case in found if case.ours]
    if wrong:
        for line in wrong:
            display.say(f"FAIL  {line}")
        display.say("nothing is timed: these differ from the reference in float64; see ssmlab doctor")
        raise typer.Exit(1)
    display.say("correctness   every backend agrees with the reference in float64, forward and backward")
    for case in found:
        display.say(f"left out: {case.op} {case.candidate}, {case.dtype}: {case.what}")
    left_out = frozenset((case.op, case.candidate, case.dtype) for case in found)
    display.start("bench ops", len(shapes), unit="shapes")
    rows = []
    for row in bench.bench_ops(shapes, device=device, budget=seconds, limit=limit, left_out=left_out):
        rows.append(row)
        display.update(len(rows), row.shape.text)
    display.stop()
    return settings, rows, bench.verdicts(rows)


def _suites(display, chosen, ops, quick, device, seconds) -> list:
    """The results of whole models and of first calls."""
    from ssmlab.profiling import bench

    found = []
    for name in chosen:
        if name != "ops":
            display.say(f"suite         {name}")
            for part in bench.suite(name, ops, device, seconds, quick=quick):
                found += part
    return found


def _show(display, rows, verdicts, results) -> None:
    from ssmlab.profiling import bench

    if rows:
        display.say(bench.to_markdown(rows))
        display.say(f"\n{bench.LEGEND}\n")
    if results:
        display.say(bench.results.to_markdown(results))
    for line in _lines(verdicts):
        display.say(line)


def _lines(verdicts) -> list[str]:
    return [line for verdict in verdicts for line in (verdict.line, *(f"       {text}" for text in verdict.offenders))]


def _write(output: Path, settings: dict, rows, verdicts, results) -> None:
    from ssmlab.core.files import write_atomically, write_json, write_records
    from ssmlab.core.stamp import Stamp
    from ssmlab.profiling import bench

    stamp = Stamp(
        run=output.name, task="bench ops", **{k: settings[k] for k in ("command", "commit", "machine", "versions")}
    )
    lines = ["# ssmlab bench ops", "", *(f"- {name}: {value}" for name, value in settings.items()), ""]
    lines += ["## Verdicts", "", "```", *_lines(verdicts), "```", ""]
    if rows:
        lines += ["## Tables", "", bench.LEGEND, "", bench.to_markdown(rows), ""]
    if results:
        lines += ["## Whole models and first calls", "", bench.results.to_markdown(results), ""]
    write_records(output / "records.jsonl", stamp.on(bench.records(rows) + bench.results.records(results)))
    write_json(output / "settings.json", settings)
    write_atomically(output / "table.md", "\n".join(lines))
    write_atomically(output / "table.csv", bench.to_csv(rows))
    for name, svg in bench.plots(rows).items():
        write_atomically(output / "plots" / f"{name}.svg", svg)

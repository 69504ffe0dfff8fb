"""A measurement of this machine as a whole: correctness first, then operators and whole models, then the files."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ssmlab.core.errors import UserError
from ssmlab.core.files import write_atomically, write_json, write_records
from ssmlab.core.progress import Progress
from ssmlab.core.stamp import Stamp, commit, machine, now, versions
from ssmlab.ops import _native
from ssmlab.profiling.bench import gpu, results
from ssmlab.profiling.bench.gate import disagreements
from ssmlab.profiling.bench.measure import Row, bench_ops, records
from ssmlab.profiling.bench.opponents import package_version
from ssmlab.profiling.bench.options import OPS, BenchOptions
from ssmlab.profiling.bench.plot import plots
from ssmlab.profiling.bench.results import Result
from ssmlab.profiling.bench.shapes import grid
from ssmlab.profiling.bench.suites import suite
from ssmlab.profiling.bench.table import LEGEND, to_csv, to_markdown
from ssmlab.profiling.bench.verdict import Verdict, verdicts
from ssmlab.profiling.selftest import self_test

SHOWN = ("machine", "versions", "instructions", "threads", "commit")  # of the settings, before anything is measured


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What `measure_machine` found.

    settings: what every time depends on.
    wrong: a line for every backend of ours that differs from the reference; then nothing was timed.
    """

    settings: dict[str, Any]
    wrong: list[str] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)

    @property
    def lines(self) -> list[str]:
        """The verdicts, each with the shapes that speak against it."""
        return [line for one in self.verdicts for line in (one.line, *(f"       {text}" for text in one.offenders))]

    def texts(self) -> list[str]:
        """The tables and the verdicts, as they are printed."""
        tables = [to_markdown(self.rows), f"\n{LEGEND}\n"] if self.rows else []
        return [*tables, *([results.to_markdown(self.results)] if self.results else []), *self.lines]

    def write(self, folder: Path) -> None:
        """Write table, records, plots and settings; those of an earlier time are replaced."""
        circumstances = {key: self.settings[key] for key in ("command", "commit", "machine", "versions")}
        stamp = Stamp(run=folder.name, task="bench ops", **circumstances)
        lines = ["# ssmlab bench ops", "", *(f"- {name}: {value}" for name, value in self.settings.items()), ""]
        lines += ["## Verdicts", "", "```", *self.lines, "```", ""]
        if self.rows:
            lines += ["## Tables", "", LEGEND, "", to_markdown(self.rows), ""]
        if self.results:
            lines += ["## Whole models and first calls", "", results.to_markdown(self.results), ""]
        write_records(folder / "records.jsonl", stamp.on(records(self.rows) + results.records(self.results)))
        write_json(folder / "settings.json", self.settings)
        write_atomically(folder / "table.md", "\n".join(lines))
        write_atomically(folder / "table.csv", to_csv(self.rows))
        for name, svg in plots(self.rows).items():
            write_atomically(folder / "plots" / f"{name}.svg", svg)


def measure_machine(options: BenchOptions | None = None, *, progress: Progress | None = None, **given: Any) -> Measured:
    """Compare every backend with the reference in float64, then time what the options name. Nothing is written.

    Args:
        options: the fields of `BenchOptions` may also be given one by one.
    Raises:
        UserError: there is no such device.
    """
    options, progress = BenchOptions.of(options, given, "measure_machine"), progress or Progress()
    device, ops = options.device, tuple(options.ops) if "ops" in options.chosen else ()
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("there is no CUDA device here, or this torch cannot use it; leave --device cuda out")
    if options.threads:
        torch.set_num_threads(options.threads)
    settings = _settings(options, ops)
    for name in SHOWN:
        progress.say(f"{name:13} {settings[name]}")
    shapes_of = gpu.shapes if device == "cuda" else grid
    shapes = [shape for op in OPS if op in ops for shape in shapes_of(op, quick=options.quick)]
    found = disagreements(shapes, device)
    wrong = [
        f"{test.op} {test.backend}: outputs {test.output_error:.1e}, gradients {test.gradient_error:.1e}"
        for test in self_test()
        if not test.passed
    ]
    wrong += [f"{case.op} {case.candidate}, {case.dtype}: {case.what}" for case in found if case.ours]
    if wrong:
        return Measured(settings=settings, wrong=wrong)
    progress.say("correctness   every backend agrees with the reference in float64, forward and backward")
    for case in found:
        progress.say(f"left out: {case.op} {case.candidate}, {case.dtype}: {case.what}")
    left_out = frozenset((case.op, case.candidate, case.dtype) for case in found)
    progress.start("bench ops", len(shapes), unit="shapes")
    rows: list[Row] = []
    try:
        for row in bench_ops(shapes, device=device, budget=options.seconds, limit=options.limit, left_out=left_out):
            rows.append(row)
            progress.update(len(rows), row.shape.text)
    finally:
        progress.stop()
    whole: list[Result] = []
    for name in options.chosen:
        if name != "ops":
            progress.say(f"suite         {name}")
            for part in suite(name, list(options.ops), device, options.seconds, quick=options.quick):
                whole += part
    return Measured(settings=settings, rows=rows, verdicts=verdicts(rows), results=whole)


def _settings(options: BenchOptions, ops: tuple[str, ...]) -> dict[str, Any]:
    """What every time depends on."""
    return {
        "command": shlex.join(["ssmlab", *sys.argv[1:]]),
        "commit": commit(),
        "machine": machine(options.device),
        "versions": f"{versions()}, mambapy {package_version('mambapy') or 'not installed'}",
        "instructions": f"PyTorch {torch.backends.cpu.get_cpu_capability()}, native {_native.isa() or 'none'}",
        "threads": torch.get_num_threads(),
        "device": options.device,
        "started": now(),
        "quick": options.quick,
        "ops": list(ops),
        "seconds_per_shape": options.seconds,
        "skip_above": options.limit,
    }

"""`ssmlab doctor`: what is installed, which kernels run, and whether they compute the right thing."""

import os
import platform
import sys
from pathlib import Path

import typer


def doctor() -> None:
    """Say what is installed and what is slow, and test every operator. Exit code 1 if a test fails."""
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    _environment(console)
    import torch

    from ssmlab.cli.tested import tested
    from ssmlab.compat import providers
    from ssmlab.ops import _native, explain_backends
    from ssmlab.profiling.selftest import GRADIENT_LIMIT, OUTPUT_LIMIT, self_test

    console.print("[bold]Dependencies[/bold] (installed, and the lowest and newest version that the tests pass with)")
    for name, lowest, newest, installed, remark in tested():
        console.print(f"  {name:13} {installed or '-':12} {lowest or '?'} to {newest}", end="", markup=False)
        console.print(f"  [yellow]{remark}[/yellow]" if remark else "")
    console.print("[bold]Devices[/bold]")
    cuda = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    console.print(f"  cuda          {cuda}", markup=False)
    console.print(f"  mps           {'yes' if torch.backends.mps.is_available() else 'none'}")
    console.print("  cpu           yes")
    console.print("[bold]Kernels[/bold] (fastest first; the first usable one is taken)")
    for op, backend, usable, reason in explain_backends():
        mark = "[green]yes[/green]" if usable else "[yellow]no [/yellow]"
        console.print(f"  {op:16} {backend:10} {mark}  ", end="")
        console.print(reason, markup=False)
    if _native.MISSING:
        from ssmlab.experiments.run import SLOWER

        console.print(f"  {SLOWER}", markup=False)
    console.print("[bold]Other people's code[/bold] (who answers to an import)")
    for name, provider, detail in providers():
        console.print(f"  {name:26} {provider:10} {detail}", markup=False)
    console.print(
        f"[bold]Self-test[/bold] against the reference in float64 (limits: outputs {OUTPUT_LIMIT:g}, "
        f"gradients {GRADIENT_LIMIT:g})"
    )
    outcomes = self_test()
    for test in outcomes:
        mark = "[green]PASS[/green]" if test.passed else "[bold red]FAIL[/bold red]"
        console.print(
            f"  {test.op:16} {test.backend:11} {mark}  outputs {test.output_error:.1e}  gradients "
            f"{test.gradient_error:.1e}  forward {test.milliseconds:.2f} ms"
        )
    if not all(test.passed for test in outcomes):
        raise typer.Exit(1)


def _environment(console) -> None:
    import torch

    from ssmlab.core.stamp import processor, versions
    from ssmlab.ops import _native, linear

    console.print("[bold]Environment[/bold]")
    rows = {
        "versions": versions(),
        "python": f"{sys.executable} on {platform.platform()}",
        "processor": processor(),
        "threads": f"{torch.get_num_threads()} of {os.cpu_count()} (torch.set_num_threads, OMP_NUM_THREADS)",
        "instructions": f"PyTorch {torch.backends.cpu.get_cpu_capability()}, native kernels {_native.isa() or 'none'}",
        "products": f"of linear layers in float32: {'oneDNN' if linear.ONEDNN else 'as torch has them'}",
        "OpenMP": ", ".join(openmp_runtimes()) or "not known on this system",
    }
    for name, value in rows.items():
        console.print(f"  {name:13} {value}", markup=False)
    if len({Path(path).name.split(".")[0].split("-")[0] for path in openmp_runtimes()}) > 1:
        console.print(
            "  [yellow]OpenMP runtimes of several makers are loaded; their threads get in each other's way[/yellow]"
        )


def openmp_runtimes() -> list[str]:
    """The OpenMP libraries in this process. Wheels may bring copies of one; those of different makers collide."""
    try:
        maps = Path("/proc/self/maps").read_text(encoding="utf-8")
    except OSError:
        return []
    names = {Path(line.split()[-1]).resolve() for line in maps.splitlines() if line.count("/")}
    return sorted(str(path) for path in names if path.name.startswith(("libgomp", "libiomp", "libomp")))

"""Whether the operators are fast at every shape, not only at the ones that are shown."""

from dataclasses import dataclass

from ssmlab.profiling.bench.measure import Row

EVEN, LONG = 3.0, 196  # times the best per-element time, from this many tokens on


@dataclass(frozen=True)
class Verdict:
    """One line: what holds, or what does not and where, the worst shape first."""

    claim: str
    holds: bool
    facts: str
    offenders: tuple[str, ...] = ()

    @property
    def line(self) -> str:
        return f"{'yes' if self.holds else 'NO '}  {self.claim}: {self.facts}"


def verdicts(rows: list[Row]) -> list[Verdict]:
    """For every operator and pass: never slower than plain torch, and even over the shapes of an n."""
    groups: dict[tuple[str, bool], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.shape.op, row.shape.backward), []).append(row)
    found = [verdict for group in groups.values() if (verdict := _above_torch(group))]
    return found + [verdict for group in groups.values() if (verdict := _even(group))]


def _above_torch(rows: list[Row]) -> Verdict | None:
    """No shape takes longer than the plain torch path; None where that is the path that a call takes."""
    compared = []
    for row in rows:
        ours, other = row.seconds(row.ours), row.seconds(row.torch_path or "")
        if ours and other:
            compared.append((other / ours, row))
    if not compared:
        return None
    slower = sorted((pair for pair in compared if pair[0] < 1), key=lambda pair: pair[0])
    least, where = min(compared, key=lambda pair: pair[0])
    estimated = sum(not row.timings[row.torch_path or ""].seconds for _, row in compared)
    facts = f"{len(slower)} of {len(compared)} shapes are slower, the least gain is {least:.2g} times"
    facts += f" at {_sizes(where)}" + (f"; {estimated} against an estimate from other shapes" if estimated else "")
    claim = f"{_name(rows)}: {where.ours} is nowhere slower than {where.torch_path}"
    offenders = tuple(f"{1 / gain:.3g} times {row.torch_path} at {_sizes(row)}" for gain, row in slower)
    return Verdict(claim, not slower, facts, offenders)


def _even(rows: list[Row]) -> Verdict | None:
    """From 196 tokens on, no shape takes more than 3 times the best time per element among the shapes of its n."""
    best: dict[int, Row] = {}
    for row in sorted(rows, key=lambda row: -row.per_element):
        best[row.shape.n] = row
    ratios = [(row.per_element / best[row.shape.n].per_element, row) for row in rows if row.shape.l >= LONG]
    if not ratios:
        return None
    worst, where = max(ratios, key=lambda pair: pair[0])
    uneven = sorted((pair for pair in ratios if pair[0] > EVEN), key=lambda pair: -pair[0])
    facts = f"{len(uneven)} of {len(ratios)} shapes take more, the worst {worst:.2g} times at {_sizes(where)}"
    claim = f"{_name(rows)}: from {LONG} tokens on at most {EVEN:g} times the best time per element of an n"
    offenders = tuple(
        f"{ratio:.3g} times at {_sizes(row)}: {row.per_element:.3g} ns against {best[row.shape.n].per_element:.3g} ns "
        f"at {_sizes(best[row.shape.n])}"
        for ratio, row in uneven
    )
    return Verdict(claim, not uneven, facts, offenders)


def _name(rows: list[Row]) -> str:
    return f"{rows[0].shape.op}, {rows[0].shape.passes}"


def _sizes(row: Row) -> str:
    shape = row.shape
    return f"d={shape.d} l={shape.l} n={shape.n} {shape.dtype} {shape.layout}"

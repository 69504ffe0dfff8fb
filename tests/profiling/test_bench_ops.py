"""What `ssmlab bench ops` measures, and what it concludes."""

import csv
import io
from dataclasses import replace

import pytest

from ssmlab.ops._example import CHANNEL, TIME
from ssmlab.profiling import bench
from ssmlab.profiling.bench import candidates, measure, opponents, timing
from ssmlab.profiling.bench.measure import COPY, EXP

TINY = {op: bench.Shape(op=op, backward=False, d=64, l=4, n=2, dtype="float32", layout=CHANNEL) for op in bench.OPS}


def row(shape, ours, chunked=None, **others):
    """Made-up seconds."""
    times = {"native": ours, "chunked": chunked, EXP: 1.0, COPY: 1.0, **others}
    timings = {name: bench.Timing((t,)) for name, t in times.items() if t is not None}
    return bench.Row(shape, "native", "chunked", timings)


def test_the_grid_is_what_was_asked_for():
    shapes = bench.grid("selective_scan")
    asked = {
        (backward, n, dtype, layout, d, l)
        for backward in (False, True) for n in (1, 8, 16, 64) for dtype in ("float32", "bfloat16")
        for layout in (CHANNEL, TIME) for d in (64, 1536) for l in (1, 49, 196, 3136)
    }  # fmt: skip
    assert {(s.backward, s.n, s.dtype, s.layout, s.d, s.l) for s in shapes} == asked and len(shapes) == len(asked)
    assert {s.side for s in bench.grid("directional_scan")} == {7, 14, 56}
    assert {s.n for s in bench.grid("ssd")} == {64, 128}
    for op in bench.OPS:
        quick, full = bench.grid(op, quick=True), bench.grid(op)
        assert 0 < len(quick) < len(full)
        assert len({s.text for s in full}) == len(full)


@pytest.mark.parametrize("op", bench.OPS)
def test_inputs_have_the_layout_and_the_sizes(op):
    for layout in dict.fromkeys(s.layout for s in bench.grid(op)):
        shape = replace(TINY[op], layout=layout, l=9)
        first = next(iter(candidates.make_inputs(shape, "cpu").values()))
        channels = {"ssd": -1, "directional_scan": 1}.get(op, 1)
        assert (first.stride(channels) == 1) == (layout == CHANNEL)
        assert first.numel() == 64 * 9
    elements = 64 * 9 * 2 * (4 if op == "directional_scan" else 1)
    assert replace(TINY[op], l=9).elements == elements


def test_all_candidates_agree_and_a_wrong_one_is_found(monkeypatch):
    shapes = [replace(TINY[op], dtype=dtype) for op in bench.OPS for dtype in ("float32", "bfloat16")]
    assert bench.disagreements(shapes) == []
    right = opponents.transformers_conv

    def wrong(shape):
        return lambda **inputs: right(shape)(**inputs) * 1.1

    costs = {"causal_conv1d": [("transformers", wrong, {})]}
    monkeypatch.setattr(candidates, "_OPPONENTS", {**candidates._OPPONENTS, **costs})
    found = bench.disagreements([TINY["causal_conv1d"]])
    assert {(case.candidate, case.ours) for case in found} == {("transformers", False)}
    assert "limit 1e-05" in found[0].what


def test_every_candidate_is_timed_with_its_yardsticks():
    for op in bench.OPS:
        for backward in (False, True):
            (found,) = bench.bench_ops([replace(TINY[op], backward=backward)], budget=0.001)
            names = [
                c.name for c in candidates.field(found.shape, candidates.make_inputs(found.shape, "cpu")).candidates
            ]
            assert list(found.timings) == [*names, EXP, COPY] and found.ours == names[0]
            assert all(t.seconds and t.median > 0 and not t.reason for t in found.timings.values())


def test_what_is_left_out_is_not_timed():
    left_out = frozenset({("causal_conv1d", "transformers", "float32")})
    (found,) = bench.bench_ops([TINY["causal_conv1d"]], budget=0.001, left_out=left_out)
    assert "transformers" not in found.timings and found.timings[found.ours].seconds


def test_slow_candidates_are_estimated_and_ours_never(monkeypatch):
    short, long = TINY["selective_scan"], replace(TINY["selective_scan"], l=64)
    first, second = bench.bench_ops([short, long], budget=0.001, limit=1e-5)
    assert all(t.seconds for t in first.timings.values())  # nothing is known yet
    assert second.timings[second.ours].seconds and second.timings[EXP].seconds
    name = next(name for name in ("chunked", "reference") if name != second.ours)
    skipped = second.timings[name]
    assert not skipped.seconds and skipped.reason.startswith("estimated ")
    assert skipped.estimate == pytest.approx(16 * first.seconds(name))
    monkeypatch.setattr(measure, "MEMORY", 1)
    (large,) = bench.bench_ops([short], budget=0.001)
    assert large.timings["transformers"].reason == "0.0 GiB" and not large.timings["transformers"].seconds


def test_a_missing_package_is_said(monkeypatch):
    def missing(shape):
        raise opponents.Missing("not installed")

    monkeypatch.setitem(candidates._OPPONENTS, "selective_scan", [("mambapy", missing, {})])
    (found,) = bench.bench_ops([TINY["selective_scan"]], budget=0.001)
    assert found.missing == {"mambapy": "not installed"} and "mambapy" not in found.timings
    assert "mambapy: not installed" in bench.to_markdown([found])
    with pytest.raises(opponents.Missing, match="has no nothing_of_this_name"):
        opponents._fallback("mamba", "nothing_of_this_name")


def test_calls_are_interleaved_and_slow_ones_not_repeated(monkeypatch):
    now, said = [0.0], []
    monkeypatch.setattr("time.perf_counter", lambda: now[0])

    def call(name, seconds):
        def run():
            said.append(name)
            now[0] += seconds

        return run

    calls = {"fast": call("fast", 0.01), "slow": call("slow", 2.0), "other": call("other", 0.02)}
    found = timing.interleaved(calls, 0.315, lambda: None)
    assert said[:8] == ["fast", "slow", "other", "fast", "slow", "other", "fast", "other"]
    assert found["slow"].seconds == pytest.approx((2.0,))
    assert len(found["fast"].seconds) == 10 and len(found["other"].seconds) == 5
    assert found["fast"].median == pytest.approx(0.01)
    assert len(timing.interleaved({"slow": call("ours", 2.0)}, 0.3, lambda: None)["slow"].seconds) == timing.FEWEST
    assert len(timing.interleaved({"tiny": call("t", 1e-9)}, 9.0, lambda: None)["tiny"].seconds) == timing.MOST


def test_verdict_on_plain_torch():
    shape = bench.grid("selective_scan")[0]
    good, bad = row(shape, 1.0, 5.0), row(replace(shape, l=49), 1.0, 0.5)
    worst = row(replace(shape, l=196), 1.0, 0.25)
    assert bench.verdicts([good])[0].holds and "5 times" in bench.verdicts([good])[0].facts
    verdict = bench.verdicts([good, bad, worst])[0]
    assert not verdict.holds and "2 of 3 shapes are slower" in verdict.line and verdict.line.startswith("NO")
    assert verdict.offenders[0].startswith("4 times chunked at d=64 l=196") and len(verdict.offenders) == 2
    itself = replace(good, ours="chunked", torch_path=None)
    assert all("nowhere slower" not in v.claim for v in bench.verdicts([itself]))
    estimated = replace(good, timings={**good.timings, "chunked": bench.Timing(estimate=9.0, reason="estimated 9 s")})
    assert "1 against an estimate" in bench.verdicts([estimated])[0].facts


def test_verdict_on_evenness_is_per_n_and_from_196_tokens_on():
    base = bench.Shape(op="selective_scan", backward=False, d=64, l=196, n=1, dtype="float32", layout=CHANNEL)

    def at(nanoseconds, **changes):
        shape = replace(base, **changes)
        return row(shape, 1e-9 * nanoseconds * shape.elements)

    rows = [at(1), at(2.9, l=3136), at(50, l=49), at(10, n=16), at(29, n=16, layout=TIME)]
    (verdict,) = bench.verdicts(rows)
    assert verdict.holds and "0 of 4 shapes" in verdict.facts
    (verdict,) = bench.verdicts([*rows, at(0.5, d=1536, l=49), at(31, n=16, dtype="bfloat16")])
    assert not verdict.holds
    assert [text.split(":")[0] for text in verdict.offenders] == [
        "5.8 times at d=64 l=3136 n=1 float32 channel-contiguous",
        "3.1 times at d=64 l=196 n=16 bfloat16 channel-contiguous",
    ]
    both = [at(1), at(9, backward=True)]  # passes are judged apart
    assert [v.holds for v in bench.verdicts(both)] == [True, True]


def test_tables_and_records_have_every_shape_and_candidate():
    shapes = bench.grid("selective_scan")
    rows = [row(shape, 0.002, 0.01, mambapy=0.2) for shape in shapes]
    rows[0].timings["mambapy"] = bench.Timing(estimate=12.0, reason="estimated 12 s")
    lines = list(csv.DictReader(io.StringIO(bench.to_csv(rows))))
    assert len(lines) == 5 * len(shapes)
    timed = {(x["pass"], x["d"], x["l"], x["n"], x["dtype"], x["layout"]) for x in lines if x["candidate"] == "native"}
    assert len(timed) == len(shapes)
    assert [x["skipped"] for x in lines if x["skipped"]] == ["estimated 12 s"]
    text = bench.to_markdown(rows)
    assert sum(line.startswith("|") for line in text.split("\n")) == len(shapes) + 2 * 2
    assert "skipped: estimated 12 s" in text and text.count("### selective_scan, forward") == 2
    made = bench.records(rows)
    assert len(made) == 5 * len(shapes) and {r.unit for r in made} == {"seconds"}
    assert {r.class_ for r in made} == {shape.text for shape in shapes}
    assert [(r.value, r.n) for r in made if r.metric == "estimated_time"] == [(12.0, 0)]
    one = next(r for r in made if r.model == "chunked")
    assert (one.metric, one.value, one.spread, one.n) == ("time", 0.01, (0.01, 0.01), 1)


def test_yardsticks_beyond_the_buffer_are_done_in_passes(monkeypatch):
    monkeypatch.setattr(measure, "ROOM", 10)
    room = measure._Room(1000, "cpu")
    assert len(room.source) == 10
    assert [len(source) for source, _ in room._passes(25)] == [10, 10, 5]
    shape = TINY["selective_scan"]
    for call in room.yardsticks(shape, candidates.make_inputs(shape, "cpu")).values():
        call()
    assert float(room.target[0]) == -1.0  # the copy came last


@pytest.mark.slow
def test_plots_draw_every_operator():
    rows = [row(shape, 0.001 * (i + 1)) for op in bench.OPS for i, shape in enumerate(bench.grid(op, quick=True))]
    drawn = bench.plots(rows)
    assert set(drawn) == {f"{op}_{p}" for op in bench.OPS for p in ("forward", "forward_backward")}
    assert all(svg.startswith("<?xml") and "ns per element" in svg for svg in drawn.values())

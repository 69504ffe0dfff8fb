"""The heat map of gradient norms: read from a run, drawn for every model, and told when it is damaged."""

import json

import numpy as np
import pytest

from ssmlab.core.errors import UserError
from ssmlab.core.files import write_records
from ssmlab.core.record import Record
from ssmlab.reports import gradients
from ssmlab.reports.html import write_report
from ssmlab.reports.run_folder import load_run
from ssmlab.tasks.table import report_of

NAMES = ["stem.weight", "layers.0.blocks.0.op.A_logs", "layers.0.blocks.0.op.Ds", "layers.1.blocks.0.w", "head.bias"]


def a_run(folder, *, rows=6, frozen=()):
    model = folder / "models" / "vmamba"
    model.mkdir(parents=True)
    steps = np.arange(1, rows + 1) * 5
    up = np.random.default_rng(0).uniform(1e-4, 1, (rows, len(NAMES))).astype(np.float32)
    up[3:, 1] = np.nan
    down = np.ones_like(up)
    down[:, 4] = 0  # a bias of zeros has no relative norm
    np.savez_compressed(
        model / gradients.FILE, names=np.array(NAMES), steps=steps, gradients=up, weights=down,
        frozen=np.array(list(frozen), dtype=str),
    )  # fmt: skip
    (folder / "run.json").write_text(json.dumps({"name": "r", "models": [{"label": "vmamba", "title": "VMamba"}]}))
    found = [("accuracy", 0.8, "test", None), ("parameters", 100, None, None), ("frozen_values", 40, None, None)]
    found += [("seconds_per_step", 0.2 - 0.05 * i, None, f"{w} freezing") for i, w in enumerate(("before", "after"))]
    records = [Record(model="vmamba", metric=m, value=v, split=s, class_=c) for m, v, s, c in found]
    write_records(folder / "records.jsonl", records)
    return folder


def test_the_page_has_the_heat_map_and_what_freezing_saved(tmp_path):
    page = write_report(a_run(tmp_path, frozen=NAMES[1:3]), report_of).read_text()
    assert (tmp_path / "plots" / "gradients-vmamba.svg").is_file()
    assert "40 % of VMamba was frozen: a step took 200 ms before and 150 ms after." in page
    assert "marked at the right edge: 2 parameters" in page


def test_relative_norms_have_no_zeros_and_no_infinities(tmp_path):
    (norms,) = gradients.found_norms(load_run(a_run(tmp_path), report_of))
    assert norms.relative.shape == (6, 5)
    assert np.isnan(norms.relative[:, 4]).all() and np.isnan(norms.relative[3:, 1]).all()
    assert np.isfinite(norms.relative[:, 0]).all()
    assert gradients._places(norms.names)[0] == (0, "stem")


@pytest.mark.parametrize("rows", [1, 500])
def test_one_step_and_very_many_are_drawn(tmp_path, rows):
    (plot,) = gradients.plots(load_run(a_run(tmp_path, rows=rows), report_of))
    assert "<svg" in plot.svg and len(plot.svg) < 200_000
    assert "least" in plot.caption


def test_the_first_seed_is_drawn(tmp_path):
    run = a_run(tmp_path)
    model = run / "models" / "vmamba"
    for seed in (3, 7):
        target = run / "models" / f"vmamba_seed{seed}"
        target.mkdir()
        (target / gradients.FILE).write_bytes((model / gradients.FILE).read_bytes())
    (model / gradients.FILE).unlink()
    assert [norms.folder for norms in gradients.found_norms(load_run(run, report_of))] == ["vmamba_seed3"]


def test_a_damaged_file_is_told(tmp_path):
    file = a_run(tmp_path) / "models" / "vmamba" / gradients.FILE
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(UserError, match=r"vmamba/gradients.npz is damaged"):
        gradients.found_norms(load_run(tmp_path, report_of))

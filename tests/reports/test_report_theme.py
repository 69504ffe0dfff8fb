"""Colours can be read in both schemes, and plots take part in them."""

import re
from importlib.resources import files
from xml.etree import ElementTree

import pytest
from fake_run import make_run

from ssmlab.reports import plots, theme
from ssmlab.reports.run_folder import load_run
from ssmlab.tasks.table import report_of

CSS = (files("ssmlab.reports") / "page.css").read_text(encoding="utf-8")


def scheme(name):
    light = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", CSS[: CSS.index("@media")]))
    dark = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", CSS[CSS.index("@media") : CSS.index("* {")]))
    assert light.keys() == dark.keys()
    return light if name == "light" else dark


def contrast(first, second):
    """WCAG 2.1, relative luminance."""

    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def mixed(colour, ground, share):
    parts = [(int(colour[i : i + 2], 16) * share + int(ground[i : i + 2], 16) * (1 - share)) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(part):02x}" for part in parts)


@pytest.mark.parametrize("name", ["light", "dark"])
def test_text_has_enough_contrast(name):
    c = scheme(name)
    pairs = [(text, ground) for text in ("ink", "muted", "link", "wrong") for ground in ("page", "card", "soft")]
    pairs += [("open", "open-soft"), ("good", "good-soft"), ("ink", "open-soft"), ("ink", "good-soft")]
    too_weak = {
        pair: round(contrast(c[pair[0]], c[pair[1]]), 2) for pair in pairs if contrast(c[pair[0]], c[pair[1]]) < 4.5
    }
    assert not too_weak


@pytest.mark.parametrize("name", ["light", "dark"])
def test_lines_and_shades_have_enough_contrast(name):
    c = scheme(name)
    for i in range(1, len(theme.SERIES) + 1):
        series = c[f"series-{i}"]
        assert contrast(series, c["card"]) >= 3
        # Numbers in a confusion matrix, at the ends of each range of shades; bold ones need 3 : 1.
        for share, text, enough in (
            (0.15, "ink", 4.5),
            (0.6, "ink", 3),
            (0.61, "on-middle", 3),
            (0.86, "on-series", 3),
        ):
            assert contrast(c[text], mixed(series, c["card"], share)) >= enough, (i, share)
        assert contrast(c["on-series"], series) >= 4.5


def test_the_page_has_a_variable_for_every_colour_of_the_plots():
    light = scheme("light")
    assert all(variable[2:] in light for variable in theme.VARIABLES.values())


def test_a_plot_is_a_file_and_a_piece_of_the_page(tmp_path):
    run = load_run(make_run(tmp_path / "run", images=0), report_of)
    plot = plots.curves(run, "loss")
    root = ElementTree.fromstring(plot.svg)
    assert root.tag.endswith("svg")
    assert theme.SERIES[0] in plot.svg
    assert theme.SERIES[1] in plot.svg
    texts = [element.text for element in root.iter() if element.tag.endswith("text")]
    assert "epoch" in texts
    assert "Loss, nats" in texts
    piece = theme.inline(plot.svg, "x")
    assert "var(--series-1)" in piece
    assert "var(--ink)" in piece
    assert not re.search("DejaVu|<style|#[0-9a-f]{6}|http", piece)
    assert all(name.startswith("x-") for name in re.findall(' id="([^"]+)"', piece))


def test_formulas_in_names_are_text_and_log_axes_have_plain_numbers():
    def paint(figure):
        axes = figure.add_subplot(title="$x$ < y")
        axes.plot([1, 2], [0.01, 100])
        plots.log_axis(axes.yaxis, axes.set_yscale)

    svg = theme.draw((200, 100), paint, "x")
    assert "$x$ &lt; y" in svg
    assert "mathdefault" not in svg


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("low", [1.1e-4, 0.021, 1, 60, 5e5, 7.3e6])
@pytest.mark.parametrize("ratio", [2, 3, 7.9, 8, 20, 500, 1e6, 1e9])
def test_a_logarithmic_axis_has_two_to_six_places_however_narrow(low, ratio, binary):
    places = plots.ticks(low, low * ratio, binary=binary)
    assert 2 <= len(places) <= 6
    assert places.min() >= low and places.max() <= low * ratio


def test_bytes_stand_at_powers_of_two():
    assert plots.ticks(9e5, 1.2e9, binary=True).tolist() == [2**20, 2**22, 2**24, 2**26, 2**28, 2**30]
    assert plots.ticks(3e5, 9e5, binary=True).tolist() == [2**17 * n for n in (3, 4, 5, 6)]
    assert plots.ticks(0.011, 0.03).tolist() == pytest.approx([0.015, 0.02, 0.025, 0.03])


def test_drawing_leaves_matplotlibs_settings_alone():
    import matplotlib

    before = dict(matplotlib.rcParams)
    theme.draw((50, 50), lambda figure: figure.add_subplot(), "x")
    assert dict(matplotlib.rcParams) == before

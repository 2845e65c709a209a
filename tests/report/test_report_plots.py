from __future__ import annotations

import json
import math
import re
from xml.etree import ElementTree

import pytest

from sgpo.report.plots import (
    LIGHT,
    PAGE,
    Curve,
    ForestRow,
    curves_figure,
    forest_figure,
    short_number,
    smooth,
    thin,
    to_svg,
)
from sgpo.report.read import Measurement

POINTS = [(0.0, Measurement(0.2, 0.1, 0.3)), (960.0, Measurement(0.5, 0.4, 0.6))]


def curve_svg(name: str = "a plot") -> str:
    figure = curves_figure(
        [Curve(run=0, points=POINTS, markers=True), Curve(run=11, points=POINTS, stroke="dashed")],
        palette=PAGE,
        size=(340, 200),
        x_label="completions $x_1$",
        percent=True,
    )
    return to_svg(figure, name=name, label='a "label" & <more>')


def test_colours_come_from_the_page_and_nothing_from_outside() -> None:
    svg = curve_svg()
    assert not re.search(r"#[0-9a-f]{6}\b", svg)
    assert {"var(--run-1)", "var(--run-2)", "var(--muted)", "var(--line)"} <= set(re.findall(r"var\([^)]*\)", svg))
    assert "http" not in svg
    assert "<style" not in svg
    root = ElementTree.fromstring(svg)
    assert root.attrib == {"viewBox": "0 0 340 200", "role": "img", "aria-label": 'a "label" & <more>'}


def test_the_values_under_the_pointer_lie_where_the_curve_was_drawn() -> None:
    nothing = math.nan
    curves = [
        Curve(run=0, points=POINTS, markers=True, label='a "run" & <more>'),
        Curve(run=11, points=[(123456.0, Measurement(0.123456789, nothing, nothing))], markers=True, label="b"),
    ]
    figure = curves_figure(curves, palette=PAGE, size=(340, 200), x_label="completions", percent=True)
    root = ElementTree.fromstring(to_svg(figure, name="values", label="values", curves=curves, percent=True))
    values = json.loads(root.attrib["data-values"])
    assert (values["axis"], values["percent"]) == ("completions", True)
    assert [(curve["run"], curve["label"]) for curve in values["curves"]] == [(1, 'a "run" & <more>'), (2, "b")]
    assert values["curves"][0]["points"] == [[0, 0.2, 0.1, 0.3], [960, 0.5, 0.4, 0.6]]
    assert values["curves"][1]["points"] == [[123456, 0.12346]]
    # The markers that matplotlib drew.
    drawn = [(float(use.attrib["x"]), float(use.attrib["y"])) for use in root.iter("use") if "x" in use.attrib]
    for x, value in ((0, 0.2), (960, 0.5), (123456, 0.12346)):
        at = [offset + scale * number for (offset, scale), number in ((values["x"], x), (values["y"], value))]
        assert min(math.dist(at, marker) for marker in drawn) < 0.01


def test_text_stays_text_and_dollars_are_no_formula() -> None:
    texts = ["".join(node.itertext()) for node in ElementTree.fromstring(curve_svg()).iter("text")]
    assert "completions $x_1$" in texts
    assert {"0%", "0", "960"} & set(texts)


def test_ids_of_two_plots_never_meet_and_every_reference_has_its_id() -> None:
    one, other = curve_svg("one"), curve_svg("other")
    ids = [set(re.findall(r'\sid="([^"]+)"', svg)) for svg in (one, other)]
    assert ids[0]
    assert not ids[0] & ids[1]
    assert set(re.findall(r'(?:url\(#|href="#)([^)"]+)', one)) == ids[0]


@pytest.mark.parametrize("zero", [True, False])
def test_a_forest_copes_with_one_sided_and_missing_intervals(zero: bool) -> None:
    estimates = [
        ForestRow(label="a <b>", run=0, value=Measurement(-0.1, -0.2, -0.05)),
        ForestRow(label="b", run=1, value=Measurement(0.0, math.nan, math.nan)),
    ]
    svg = to_svg(
        forest_figure(estimates, palette=PAGE, width=340, x_label="points", zero=zero), name="f", label="forest"
    )
    assert "a <b>" in ["".join(node.itertext()) for node in ElementTree.fromstring(svg).iter("text")]


@pytest.mark.parametrize("value", [0.0, 1e-12, 1e12, -3.0])
def test_constant_curves_can_be_drawn(value: float) -> None:
    points = [(float(step), Measurement(value, math.nan, math.nan)) for step in range(50)]
    figure = curves_figure([Curve(run=0, points=points)], palette=LIGHT, size=(340, 200), x_label="step", percent=False)
    assert "<svg" in to_svg(figure, name="constant", label="constant")


def test_smoothing_keeps_a_constant_and_takes_the_mean_of_neighbours() -> None:
    assert smooth([(float(x), 2.0) for x in range(100)]) == [(float(x), 2.0) for x in range(100)]
    points = [(float(x), float(x % 2)) for x in range(40)]  # half a window is one point
    assert smooth(points)[0] == (0.0, pytest.approx(1 / 2))
    assert smooth(points)[2] == (2.0, pytest.approx(2 / 3))
    assert smooth(points[:39]) == points[:39]


def test_thinning_keeps_the_mean_and_the_last_point() -> None:
    points = [(float(x), float(x)) for x in range(1000)]
    thinned = thin(points, 100)
    assert len(thinned) == 100
    assert thinned[-1] == (999.0, pytest.approx(994.5))
    assert thin(points[:100], 100) == points[:100]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.25, "0.25"), (150, "150"), (9600, "9.6k"), (1_200_000, "1.2M"), (5e-5, "5e−5"), (-2, "−2")],
)
def test_numbers_on_axes_are_short(value: float, text: str) -> None:
    assert short_number(value) == text


def test_the_axis_of_differences_says_halves_of_points() -> None:
    estimate = ForestRow(label="a", run=0, value=Measurement(0.01, -0.03, 0.05))
    figure = forest_figure([estimate], palette=PAGE, width=340, x_label="difference, points", zero=True)
    svg = to_svg(figure, name="a", label="a")
    texts = {"".join(node.itertext()) for node in ElementTree.fromstring(svg).iter("text")}
    assert {"−2.5", "0", "+2.5", "+5"} <= texts

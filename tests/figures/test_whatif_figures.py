"""Figures of a what-if: each point is an outcome of the sweep, with its interval."""

from __future__ import annotations

import dataclasses

import pytest

from pdtrace.delayer.replay import Setting
from pdtrace.errors import UsageError
from pdtrace.figures import draw_figure, list_figures
from tests.figures.recorded import read_outlook


@pytest.mark.parametrize("name", list_figures("whatif"))
def test_every_figure_is_valid_plotly(name):
    """Plotly accepts every figure, and each has its table."""
    figure = draw_figure(name, read_outlook())
    figure.to_plotly()
    assert figure.alt
    assert figure.table.height


def test_the_front_holds_every_setting_in_milliseconds():
    """A point's place is its outcome's, in the units of the axes."""
    outlook = read_outlook()
    data = {t["name"]: t for t in draw_figure("front", outlook).spec["data"]}
    swept = data["bound on delay passes"]
    assert swept["text"] == ["4", "30", "500"]
    assert swept["x"] == [1e3 * o.ttft_p99_s[0] for o in outlook.bounds]
    assert swept["y"] == [o.throughput_tok_s[0] for o in outlook.bounds]
    assert data["delayer off"]["x"] == [1e3 * outlook.advice.off.ttft_p99_s[0]]
    assert data["as recorded"]["y"] == [outlook.advice.measured["prefill_throughput_tok_s"]]


def test_only_what_is_chosen_is_marked_as_the_one_to_use():
    """Where the advice is to leave it off, no setting has the star."""
    outlook = read_outlook()
    none = dataclasses.replace(outlook, advice=dataclasses.replace(outlook.advice, chosen=None))
    chosen = dataclasses.replace(
        outlook, advice=dataclasses.replace(outlook.advice, chosen=outlook.bounds[1])
    )
    assert "to use" not in {t["name"] for t in draw_figure("front", none).spec["data"]}
    (star,) = (t for t in draw_figure("front", chosen).spec["data"] if t["name"] == "to use")
    assert star["x"] == [1e3 * outlook.bounds[1].ttft_p99_s[0]]


def test_what_was_asked_about_is_marked():
    """A setting named on the command line is found among the swept ones."""
    outlook = dataclasses.replace(read_outlook(), asked=(Setting(500),))
    (ring,) = (t for t in draw_figure("front", outlook).spec["data"] if t["name"] == "asked about")
    assert ring["x"] == [1e3 * outlook.bounds[-1].ttft_p99_s[0]]


def test_bars_of_sensitivity_reach_the_ends_of_the_interval():
    """A bar that were drawn from the half would claim another certainty."""
    outlook = read_outlook()
    (line,) = (
        t
        for t in draw_figure("sensitivity", outlook).spec["data"]
        if t["name"] == "mean request latency"
    )
    for k, o in enumerate(outlook.bounds):
        assert line["y"][k] + line["error_y"]["array"][k] == pytest.approx(
            100 * o.latency[2], abs=0.01
        )
        assert line["y"][k] - line["error_y"]["arrayminus"][k] == pytest.approx(
            100 * o.latency[1], abs=0.01
        )


def test_held_time_is_told_in_milliseconds_beside_a_pass():
    """N passes are N − 1 turns; the table has the range that the recording allows."""
    outlook = read_outlook()
    table = draw_figure("held_time", outlook).table
    turn = outlook.advice.turn_s[0]
    assert table["held at most (ms)"].to_list() == [
        pytest.approx(1e3 * (n - 1) * turn, abs=0.01) for n in (4, 30, 500)
    ]
    assert (table["low (ms)"] < table["held at most (ms)"]).all()


def test_unknown_values_of_options_name_the_known():
    """A page's author learns what an option takes."""
    with pytest.raises(UsageError, match="unknown over 'time'; known: passes, turn"):
        draw_figure("sensitivity", read_outlook(), {"over": "time"})
    with pytest.raises(UsageError, match="unknown intervals 'some'; known: marked, all, none"):
        draw_figure("front", read_outlook(), {"intervals": "some"})

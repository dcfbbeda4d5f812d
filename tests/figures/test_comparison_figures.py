"""Figures of a comparison: what is drawn is what comparing found, each in its own direction."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from pdtrace.compare import compare_runs
from pdtrace.errors import UsageError
from pdtrace.figures import draw_figure, list_figures
from pdtrace.figures.pair import survey_pair
from pdtrace.figures.survey import PREFILL
from pdtrace.loading import load
from tests.figures.recorded import SAMPLES, read_pair, read_sample


@pytest.mark.parametrize("name", list_figures("comparison"))
@pytest.mark.parametrize(
    "runs", [("h100x2-off", "h100x2-on"), ("h100x2-off", "cpu-dp8-off")], ids=["alike", "different"]
)
def test_every_figure_is_valid_plotly(name, runs):
    """Plotly accepts every figure, also of runs that cannot be compared."""
    figure = draw_figure(name, read_pair(*runs))
    figure.to_plotly()
    assert figure.alt
    assert figure.table.width or figure.note == ""


def test_better_is_drawn_on_the_right_whatever_the_unit():
    """Latency that falls and throughput that rises both lie right of the middle."""
    pair = read_pair()
    metrics = ("request_latency_mean_s", "prefill_throughput_tok_s", "fusion_width_mean")
    data = draw_figure("gain", pair, {"metrics": list(metrics)}).spec["data"]
    points = {t["y"][0]: t["x"][0] for t in data if t["mode"] == "markers"}
    for y, name in enumerate(metrics):
        row = pair.result.get(name)
        assert row.verdict == "better"
        octaves = abs(np.log2(1 + row.change_ratio))
        assert points[y] == pytest.approx(octaves)


def test_costs_stand_below_the_gains():
    """A gain is never shown without its cost beside it."""
    figure = draw_figure("gain", read_pair())
    names = figure.spec["layout"]["yaxis"]["ticktext"]
    costs = [n.startswith("cost: ") for n in names]
    assert any(costs)
    assert costs == sorted(costs)
    assert "cost: delay passes" in names


def test_a_cost_of_the_whole_runs_is_told_without_a_verdict():
    """Where some requests have no partner the delay is known of all only, and still a cost."""
    pair = read_pair("cpu-dp4-off", "cpu-dp4-on")
    row = pair.result.get("num_delay_passes")
    assert row.verdict == "unmeasured"
    layout = draw_figure("gain", pair).spec["layout"]
    y = layout["yaxis"]["ticktext"].index("cost: delay passes")
    told = {a["text"] for a in layout["annotations"] if a["y"] == y}
    assert told == {f"{row.raw[0]:,.0f} → {row.raw[1]:,.0f}", "– of the whole runs"}


def test_requests_of_unknown_rank_are_put_on_no_rank():
    """A client's log does not tell ranks: its requests stand in a row that says so."""
    runs = tuple(
        load(str(SAMPLES / n), sources=["client_log"]) for n in ("h100x2-off", "h100x2-on")
    )
    pair = survey_pair(compare_runs(*runs), runs, None)
    axis = draw_figure("same_requests", pair).spec["layout"]["yaxis"]
    assert axis["ticktext"] == ["rank unknown", "rank unknown"]


def test_what_cannot_be_compared_shows_no_gain():
    """Runs of different engines get reasons, and no number that looks like a gain."""
    figure = draw_figure("gain", read_pair("h100x2-off", "cpu-dp8-off"))
    assert figure.spec["data"] == []
    assert figure.table.is_empty()


def test_the_typical_group_is_neither_the_best_nor_touched_by_a_stall():
    """The example drawn is the one in the middle of its phase, not the most flattering one."""
    pair = read_pair()
    figure = draw_figure("same_requests", pair, {"phase": "seed"})
    told = figure.table.filter(figure.table["what"].str.starts_with("request seed"))
    names = np.array(pair.phases, dtype=object) == "seed"
    ratios = []
    for group in np.unique(pair.groups[names & ~pair.is_touched]):
        mine = pair.groups == group
        if pair.is_touched[mine].any() or mine.sum() < 2:
            continue
        ends = [(pair.times(s, "end") - pair.times(s, "begin"))[mine].sum() for s in (0, 1)]
        ratios.append(ends[1] / ends[0])
    shown = [told.filter(told["run"] == r)["took (ms)"].sum() for r in ("baseline", "candidate")]
    assert shown[1] / shown[0] == pytest.approx(np.median(ratios), rel=0.02)
    assert shown[1] < shown[0]


def test_an_unknown_phase_names_the_known():
    """Phases come from request ids, so whoever names one wants to know which there are."""
    with pytest.raises(UsageError, match=r"unknown phase 'sed'; known: seed, .*mean 'seed'"):
        draw_figure("same_requests", read_pair(), {"phase": "sed"})


@pytest.mark.parametrize("align", ["phases", "start"])
def test_no_prefill_time_is_lost_between_intervals(align):
    """Shares of the intervals add up to the prefill time of the stretches they cover."""
    pair = read_pair()
    figure = draw_figure("paired_timelines", pair, {"align": align, "bins": 97})
    table = figure.table
    width = float((table["to (s)"] - table["from (s)"]).mean())
    for side, name in enumerate(("baseline", "candidate")):
        survey = pair.surveys[side]
        drawn = table[f"{name} prefill (%)"].sum() / 100 * width * survey.dp_size
        busy = survey.busy * (survey.role == PREFILL).sum(axis=1)
        if align == "start":
            expected = busy.sum()
        else:
            inside = np.zeros(len(survey), bool)
            names = np.array(pair.phases, dtype=object)
            for phase in dict.fromkeys(pair.phases):
                mine = names == phase
                begin = pair.times(side, "begin")[mine].min()
                end = pair.times(side, "end")[mine].max()
                inside |= (survey.start >= begin) & (survey.end <= end)
            expected = busy[inside].sum()
        assert drawn == pytest.approx(expected, rel=0.02)


def test_phases_that_overlap_are_not_laid_side_by_side():
    """Kinds of request that mix have no stretch of their own; both runs then begin at zero."""
    pair = read_pair()
    mixed = dataclasses.replace(pair, phases=tuple("ab"[i % 2] for i in range(len(pair.phases))))
    layout = draw_figure("paired_timelines", mixed).spec["layout"]
    assert layout["shapes"] == []
    assert layout["xaxis"]["title"]["text"] == "seconds since the start"


def test_requests_are_counted_as_the_comparison_counts_them():
    """The legend's number of requests that pay is the one in the verdict."""
    pair = read_pair()
    slower, of = pair.result.num_slower
    names = [t.get("name", "") for t in draw_figure("request_pairs", pair).spec["data"]]
    assert f"{slower:,} answered over 5 % later" in names
    counts = [int(n.split()[0].replace(",", "")) for n in names if n]
    assert sum(counts) == of


def test_shares_of_widths_are_of_each_run():
    """Both runs' bars add up to 100 %, and the counts to their iterations."""
    table = draw_figure("fusion_widths", read_pair()).table
    for name, sample in (("baseline", "h100x2-off"), ("candidate", "h100x2-on")):
        assert table[f"{name} (%)"].sum() == pytest.approx(100, abs=0.2)
        assert table[f"{name} (iterations)"].sum() == read_sample(sample).iterations.height


def test_published_results_stand_beside_the_own():
    """Every published result has its line, and the own one is drawn with its interval."""
    pair = read_pair()
    figure = draw_figure("published", pair)
    own = pair.result.get("served_throughput_tok_s")
    lines = [t["x"] for t in figure.spec["data"] if t["mode"].startswith("lines")]
    assert [100 * own.low, 100 * own.high] in lines
    assert len(lines) == figure.table.height + 2

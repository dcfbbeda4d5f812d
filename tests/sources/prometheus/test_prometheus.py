"""Counter differences, restarts, broken scrapes, and the counters of real runs."""

from __future__ import annotations

import shutil
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdtrace.errors import InputError
from pdtrace.loading import load
from pdtrace.sources import read
from pdtrace.sources.prometheus import scrapes
from pdtrace.sources.prometheus.scrapes import Scrape, measure_growth

SAMPLES = Path(__file__).parents[3] / "sample_logs"
NAME = "sglang:prefill_delayer_outcomes_total"


def exposition(outcomes, *, rank=0, pid=1, more=""):
    """A scrape: (estimation, allow, reason, executed) → count."""
    lines = [
        f'# TYPE sglang:utilization gauge\nsglang:utilization{{dp_rank="{rank}",pid="{pid}"}} -1.0',
        f"# TYPE {NAME} counter",
    ]
    for (estimation, allow, reason, executed), count in outcomes.items():
        lines.append(
            f'{NAME}{{actual_execution="{executed}",dp_rank="{rank}",engine_type="prefill",'
            f'input_estimation="{estimation}",model_name="/m",output_allow="{allow}",'
            f'output_reason="{reason}",tp_rank="{rank}"}} {count}.0'
        )
    return "\n".join(lines) + "\n" + more


DELAY = ("mixed", "false", "delay", "false")
NONE = ("none", "true", "", "false")


def write(folder, **texts):
    """Files of a run directory."""
    for name, text in texts.items():
        (folder / f"{name}.txt").write_text(text)
    return str(folder)


def delays(recording):
    """Count of delay passes over all rows."""
    return recording.decisions.filter(pl.col("output_reason") == "delay")["count"].sum()


def test_counters_of_a_real_run():
    """h100x2-on: the engine's outcomes as its own counters end up, on both ranks."""
    recording = read([str(SAMPLES / "h100x2-on")], sources=["prometheus"])
    counts = dict(
        recording.decisions.filter(pl.col("dp_rank") == 0)
        .group_by(pl.concat_str("output_reason", pl.lit(" "), "actual_execution"))
        .agg(pl.col("count").sum())
        .iter_rows()
    )
    assert counts == {
        "delay false": 4215, "no_wait true": 67, "wait_success true": 91,
        "wait_timeout true": 57, "wait_timeout false": 62, " false": 24310,
    }  # fmt: skip
    assert "hold only zeros" in " ".join(recording.warnings)
    assert recording.decisions["wait"].null_count() == recording.decisions.height
    growth = recording.counters.filter(pl.col("counter") == "realtime_tokens_total")["growth"]
    assert growth.sum() == 1_919_001


def test_a_scrape_before_the_load_is_not_believed():
    """h100x2-on-watermark died before the second scrape: the first says nothing of the load."""
    recording = read([str(SAMPLES / "h100x2-on-watermark")])
    assert recording.decisions.filter(pl.col("source") == "prometheus").is_empty()
    assert any("scraped before the end" in w for w in recording.warnings)


def test_difference_of_two_scrapes(tmp_path):
    """Of an engine that ran long before, only the growth counts; file names do not matter."""
    before, after = exposition({DELAY: 900, NONE: 5000}), exposition({DELAY: 940, NONE: 5100})
    recording = read([write(tmp_path, metrics_before=before, metrics_after=after)])
    assert delays(recording) == 40
    assert "before the first scrape" in recording.warnings[0]


def test_recording_of_most_of_an_engines_life(tmp_path):
    """Where the first scrape came early, what it held belongs to the recording."""
    before, after = exposition({DELAY: 6, NONE: 50}), exposition({DELAY: 940, NONE: 5100})
    recording = read([write(tmp_path, a=before, b=after)])
    assert delays(recording) == 940
    assert recording.warnings == ()


def test_series_of_scrapes_in_one_file(tmp_path):
    """Scrapes after one another, dated by comments; a restart in between counts from zero."""
    parts = [
        exposition({DELAY: n, NONE: 10 * n}, pid=pid)
        for n, pid in ((10, 1), (30, 1), (5, 2), (9, 2))
    ]
    text = "".join(f"# scraped 2026-05-28T03:00:0{k}+00:00\n{part}" for k, part in enumerate(parts))
    recording = read([write(tmp_path, series=text)])
    assert delays(recording) == 30 + 9
    assert recording.decisions["engine_run"].max() == 1
    assert recording.decisions["ts"].null_count() == 0
    assert any("restarted 1 time between" in w for w in recording.warnings)


def test_waits_of_releases_that_record_them(tmp_path):
    """From 0.5.14 the histogram holds real waits: their sum, in a row of its own."""
    more = "# TYPE sglang:prefill_delayer_wait_seconds histogram\n"
    more += 'sglang:prefill_delayer_wait_seconds_sum{dp_rank="0",tp_rank="0"} 1.25\n'
    more += 'sglang:prefill_delayer_wait_seconds_count{dp_rank="0",tp_rank="0"} 4.0\n'
    recording = read([write(tmp_path, m=exposition({DELAY: 10}, more=more))])
    row = recording.decisions.filter(pl.col("wait").is_not_null()).row(0, named=True)
    assert (row["count"], row["wait"].total_seconds()) == (0, 1.25)


def test_all_schedulers_count_once(tmp_path):
    """With metrics of all schedulers every TP rank of a DP rank says the same."""
    one = exposition({DELAY: 10})
    two = "\n".join(x for x in one.splitlines() if x.startswith(NAME)).replace(
        'tp_rank="0"', 'tp_rank="1"'
    )
    assert delays(read([write(tmp_path, m=one + two + "\n")])) == 10


def test_damaged_samples_are_counted(tmp_path):
    """Torn lines, odd values and unknown outcomes are counted, the first by its line."""
    text = exposition({DELAY: 10, ("mixed", "true", "mercy", "true"): 3})
    text += f'{NAME}{{dp_rank="0\n{NAME}{{dp_rank="0"}} NaN\n{NAME}{{dp_rank="0"}} 1e999\n'
    recording = read([write(tmp_path, m=text)])
    assert delays(recording) == 10
    assert recording.files[0].skipped == {"damaged sample": 3}
    assert "m.txt:6: 3 damaged samples" in recording.warnings[0]
    assert any("an outcome that is not known" in w for w in recording.warnings)


def test_metrics_of_something_else(tmp_path):
    """An exposition without the engine's metrics is refused in one line."""
    with pytest.raises(InputError, match="no counter of the engine"):
        read([write(tmp_path, m="# HELP up x\n# TYPE up gauge\nup 1\n") + "/m.txt"])


@given(st.lists(st.lists(st.integers(0, 100), min_size=1, max_size=8), min_size=1, max_size=4))
def test_growth_adds_up_over_restarts(lives):
    """Whatever the scrapes, the growth is the sum of what each life of the engine reached."""
    key = ("x_total", ())
    made = [
        Scrape(0, values={key: float(total)}, pids={str(n)})
        for n, life in enumerate(lives)
        for total in [sum(life[: k + 1]) for k in range(len(life))]
    ]
    growth, restarts = measure_growth(made)
    assert restarts == len(lives) - 1
    assert sum(g.growth for g in growth) == sum(sum(life) for life in lives)


@given(st.text(max_size=80))
def test_any_line_is_survived(tmp_path_factory, line):
    """No text can stop the reader."""
    folder = tmp_path_factory.mktemp("p")
    text = exposition({DELAY: 10}) + f"{NAME}{{{line}\nsglang:{line}\n# TYPE {line}\n"
    assert delays(read([write(folder, m=text)])) == 10


def test_counters_of_later_releases(tmp_path):
    """DP-attention steps, cooperation tokens and stage latencies become rows of ``counters``."""

    def scrape(n):
        return (
            "# TYPE sglang:dp_attention_steps_total counter\n"
            f'sglang:dp_attention_steps_total{{dp_rank="2",rank_state="idle",tp_rank="2"}} {n}\n'
            "# TYPE sglang:dp_cooperation_realtime_tokens_total counter\n"
            "sglang:dp_cooperation_realtime_tokens_total"
            f'{{dp_rank="2",mode="prefill_compute",num_prefill_ranks="3"}} {100 * n}\n'
            "# TYPE sglang:per_stage_req_latency_seconds histogram\n"
            f'sglang:per_stage_req_latency_seconds_sum{{stage="prefill_forward"}} {n / 2}\n'
            f'sglang:per_stage_req_latency_seconds_count{{stage="prefill_forward"}} {n}\n'
        )

    found = read([write(tmp_path, a=scrape(100), b=scrape(130))]).counters
    assert found.select("counter", "dp_rank", "labels", "growth").rows() == [
        ("dp_attention_steps_total", 2, "rank_state=idle", 30.0),
        ("dp_cooperation_realtime_tokens_total", 2,
         "mode=prefill_compute,num_prefill_ranks=3", 3000.0),
        ("per_stage_req_latency_seconds_sum", None, "stage=prefill_forward", 15.0),
        ("per_stage_req_latency_seconds_count", None, "stage=prefill_forward", 30.0),
    ]  # fmt: skip


def test_a_long_series_is_thinned_out(tmp_path, monkeypatch):
    """However many scrapes there are, few are kept, and no growth is lost over restarts."""
    monkeypatch.setattr(scrapes, "MAX_SCRAPES", 8)
    lives = [(pid, n) for pid in range(3) for n in range(1, 40)]
    text = "".join(exposition({DELAY: n, NONE: n}, pid=pid) for pid, n in lives)
    recording = read([write(tmp_path, series=text)])
    assert delays(recording) == 3 * 39
    assert recording.decisions["engine_run"].max() == 2
    assert recording.decisions.height < 50


@pytest.mark.parametrize(
    "value", ["-1.0", "1e19", "9223372036854775808", "1.7e308", "nan", "+Inf", "-0.5"]
)
def test_a_count_that_cannot_be_is_left_out_by_name(tmp_path, value):
    """One damaged series must cost neither the run nor the other series."""
    text = exposition({DELAY: 5, NONE: 7})
    bad = text.replace(" 7.0", f" {value}")
    recording = read([write(tmp_path, metrics_after=bad)])
    assert delays(recording) == 5
    assert recording.decisions["count"].sum() == 5
    (warning,) = (w for w in recording.warnings if "damaged" in w)
    assert warning.startswith(f"{tmp_path}/metrics_after.txt:5: 1 damaged")
    assert NAME in warning


@pytest.mark.parametrize("stamp", ["-99999999999999", "253402300800000", "16725225600000", "1"])
@pytest.mark.parametrize("where", ["sample", "comment"])
def test_a_time_that_cannot_be_is_taken_as_not_given(tmp_path, stamp, where):
    """Counts of an exporter with a wrong clock are still counts."""
    texts = [exposition({DELAY: 5}), exposition({DELAY: 50})]
    if where == "sample":
        texts = [text.replace(".0\n", f".0 {stamp}\n") for text in texts]
    else:
        texts = [f"# scraped 9999-01-0{k}T00:00:00Z\n{text}" for k, text in enumerate(texts, 1)]
    recording = read([write(tmp_path, metrics_before=texts[0], metrics_after=texts[1])])
    assert delays(recording) == 50
    assert recording.counters["start"].null_count() == recording.counters.height
    assert sum("times that cannot be true" in w for w in recording.warnings) == 2


def test_a_given_number_of_ranks_holds_against_what_metrics_name(tmp_path):
    """Metrics of another engine beside the log name ranks that this one has not."""
    text = "".join(exposition({DELAY: 5}, rank=rank) for rank in (0, 1, 500, 999))
    shutil.copy(SAMPLES / "h100x2-on" / "server.log", tmp_path)
    run = load(write(tmp_path, metrics_after=text), dp_size=2)
    assert run.dp_size == 2
    assert run.iterations["num_unknown_ranks"].max() == 0

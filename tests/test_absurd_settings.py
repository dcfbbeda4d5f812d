"""Settings that cannot be true: what they say is taken as not said, and the rest is reported."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import pdtrace
from pdtrace.__main__ import main
from pdtrace.delayer.ledger import build_ledger

RECORDED = (Path(__file__).parent.parent / "sample_logs" / "h100x2-on" / "server.log").read_text()


def write_log(directory, setting, value):
    """The recorded log with another value in its server_args and in the delayer's own line."""
    path = directory / "server.log"
    path.write_text(re.sub(rf"\b{setting}=[^,\s)]+", f"{setting}={value}", RECORDED))
    return path


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("dp_size", "4294967297"),
        ("dp_size", "99999999999999999999"),
        ("dp_size", "0"),
        ("chunked_prefill_size", "99999999999999999999"),
        ("chunked_prefill_size", "-1"),
        ("max_total_num_tokens", "-7"),
        ("max_running_requests", "1e400"),
        ("token_usage_low_watermark", "nan"),
    ],
)
def test_an_absurd_setting_loses_no_iteration(tmp_path, setting, value):
    """Guards reports of engines whose settings were printed wrongly or mean something else."""
    run = pdtrace.load(write_log(tmp_path, setting, value))
    assert (run.dp_size, len(run.iterations)) == (2, 277)
    assert main(["analyze", str(tmp_path / "server.log")]) == 0


@pytest.mark.parametrize("bound", ["0", "1", "-3"])
def test_a_bound_without_waits_has_no_episodes(tmp_path, bound):
    """Guards the ledger of engines that never hold back: no wait of −1 passes is told."""
    run = pdtrace.load(write_log(tmp_path, "max_delay_passes", bound))
    assert run.engine.delayer.max_delay_passes == int(bound)
    ledger = build_ledger(run)
    assert len(ledger.episodes) == 0
    assert ledger.reason is not None


@pytest.mark.parametrize("bound", ["2147483648", "4294967297", "99999999999999999999"])
def test_a_bound_that_no_engine_counts_to_is_not_told(tmp_path, bound, capsys):
    """Guards the ledger, whose passes are counted up to the bound."""
    path = write_log(tmp_path, "max_delay_passes", bound)
    run = pdtrace.load(path)
    assert run.engine.delayer.enabled
    assert run.engine.delayer.max_delay_passes is None
    assert main(["analyze", str(path)]) == 0, capsys.readouterr().err
    assert main(["export", "delay-episodes", str(path), "-o", str(tmp_path / "x.csv")]) == 0


@pytest.mark.parametrize("size", ["0", "-1", "4097", "65535", "9" * 200])
def test_more_ranks_than_an_engine_has_are_refused(tmp_path, size, capsys):
    """All tables are laid out over all ranks: one wrong digit must not take minutes."""
    path = write_log(tmp_path, "dp_size", "2")
    assert main(["analyze", str(path), f"--dp-size={size}"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("pdtrace: the number of DP ranks must be from 1 to 4096, not ")
    assert len(err) < 200


def test_the_causes_of_a_rank_do_not_depend_on_how_many_there_are(tmp_path):
    """Guards the ranks that did something, among thousands that a wrong option adds."""
    path = write_log(tmp_path, "dp_size", "2")
    few, many = (pdtrace.load(path, dp_size=size).rank_passes for size in (2, 4096))
    columns = ["iteration", "dp_rank", "role", "cause", "cause_detail"]
    idle = few.filter(few["cause"].is_not_null()).select(columns)
    assert idle.height == 119
    assert (
        many.filter(many["dp_rank"] < 2, many["cause"].is_not_null()).select(columns).equals(idle)
    )
    assert many["dp_rank"].n_unique() == 4096

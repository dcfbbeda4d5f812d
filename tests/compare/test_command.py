"""The command as a user or a job meets it: outputs, keys, exit codes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from pdtrace.__main__ import main
from pdtrace.compare import compare_runs
from pdtrace.loading import load

SAMPLES = Path(__file__).parent.parent.parent / "sample_logs"
OFF, ON = str(SAMPLES / "h100x2-off"), str(SAMPLES / "h100x2-on")
PROMISED = {"baseline", "candidate", "change_ratio", "low", "high", "verdict"}
VERDICTS = {"better", "worse", "same", "inconclusive", "unmeasured"}


def read_json(capsys) -> dict:
    """What was printed, as strict JSON."""

    def refuse(text: str) -> None:
        raise AssertionError(f"{text} is not JSON")

    return json.loads(capsys.readouterr().out, parse_constant=refuse)


def test_json_has_what_is_promised(capsys) -> None:
    """Keys that jobs rely on, and no NaN."""
    assert main(["compare", OFF, ON, "--json", "-"]) == 0
    told = read_json(capsys)
    assert (told["schema_version"], told["comparable"], told["reasons"]) == (1, True, [])
    for row in told["metrics"].values():
        assert set(row) >= PROMISED
        assert row["verdict"] in VERDICTS
    assert told["metrics"]["num_iterations"]["baseline"] == 381
    assert told["metrics"]["num_iterations"]["candidate"] == 277
    assert all(p["source"] for p in told["published"])


def test_the_verdict_comes_first_with_the_cost_beside_it(capsys) -> None:
    """Two lines answer the question; the tables follow."""
    assert main(["compare", OFF, ON, "--request-filter", "^seed"]) == 0
    text = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert text.startswith("The candidate is better: simultaneous group")
    assert "483 ms → 304 ms (−37 %, 95 % interval −38 % to −36 %)" in text
    assert "Cost: 0 of 24 requests are answered over 5 % later; delay passes 0 → 4,215" in text


def test_stalls_that_turn_a_mean_around_are_told_in_the_verdict(capsys) -> None:
    """A reader of the first lines must not miss them."""
    assert main(["compare", OFF, ON]) == 0
    text = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert "With stalls included, 354 ms → 444 ms (+26 %)" in text


def test_an_open_verdict_says_what_leaves_it_open(capsys) -> None:
    """An interval without zero is not chance, and seconds of delay are no bare number."""
    assert main(["compare", str(Path(OFF) / "server.log"), ON]) == 0
    text = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert text.startswith("No verdict, repeats of one setting can differ by 3 %, too: TTFT, mean")
    assert main(["compare", OFF, ON]) == 0
    text = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert "delay passes 0 → 4,215; delay seconds 0 s → 6.68 s" in text


def test_not_comparable_ends_with_two_and_one_line(capsys) -> None:
    """The JSON is written all the same, with the reasons and without numbers."""
    assert main(["compare", OFF, str(SAMPLES / "cpu-dp4-off"), "--json", "-"]) == 2
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert told["comparable"] is False
    assert told["metrics"] == {}
    assert any("dp_size" in reason for reason in told["reasons"])
    assert err.startswith("pdtrace: not comparable: dp_size differs: 2 and 4;")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        [OFF],
        [OFF, ON, "--request-filter", "("],
        [OFF, "no/such/log"],
        [OFF, ON, "--json", "-", "--html", "-"],
        ["-", "-"],
    ],
)
def test_bad_arguments_end_with_two(capsys, arguments) -> None:
    """One line says why."""
    assert main(["compare", *arguments]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_page_stands_alone(tmp_path, capsys) -> None:
    """Nothing is fetched, and every metric that was measured is in it."""
    page = tmp_path / "page.html"
    assert main(["compare", OFF, ON, "--html", str(page)]) == 0
    text = page.read_text("utf-8")
    assert "default-src 'none'" in text
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", text)
    runs = [load(p) for p in (OFF, ON)]
    for row in compare_runs(*runs).rows:
        assert f'<td class="text">{row.quantity.title}</td>' in text


def test_what_a_log_says_cannot_become_markup(tmp_path, capsys) -> None:
    """Request ids and file names are untrusted."""
    evil = tmp_path / "<img src=x onerror=alert(1)>.log"
    evil.write_bytes((SAMPLES / "h100x2-off" / "server.log").read_bytes())
    page = tmp_path / "page.html"
    assert main(["compare", str(evil), str(evil), "--html", str(page)]) == 0
    assert "<img" not in page.read_text("utf-8")


def test_a_log_alone_can_be_compared(capsys) -> None:
    """Without spans and client: time stats name the requests, latency of the client is missing."""
    logs = [f"{d}/server.log" for d in (OFF, ON)]
    assert main(["compare", *logs, "--json", "-"]) == 0
    metrics = read_json(capsys)["metrics"]
    assert metrics["num_iterations"]["verdict"] == "better"
    assert metrics["ttft_mean_s"]["verdict"] != "unmeasured"
    assert metrics["request_latency_mean_s"]["verdict"] == "unmeasured"
    assert "client_log" in metrics["request_latency_mean_s"]["note"]


def test_clients_alone_can_be_compared(capsys) -> None:
    """Latency of the client is all they tell: no TTFT, and no eye for stalls."""
    assert main(["compare", OFF, ON, "--source", "client_log", "--json", "-"]) == 0
    told = read_json(capsys)
    assert told["metrics"]["request_latency_mean_s"]["baseline"] == pytest.approx(0.354, abs=0.001)
    assert told["metrics"]["ttft_mean_s"]["verdict"] == "unmeasured"
    assert told["metrics"]["num_iterations"]["verdict"] == "unmeasured"
    assert any("stalls cannot be seen" in note for note in told["notes"])

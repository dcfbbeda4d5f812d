"""A served engine and a collection beside it: what is received is what the engine's files hold."""

from __future__ import annotations

import json
import shutil

import polars as pl
import pytest

import pdtrace
from pdtrace.__main__ import main
from tests.collect.running import collecting
from tests.simulate.serving import prompt, serving


def rounded(content):
    """The same without the last digits, which depend on the order of summing up."""
    if isinstance(content, dict):
        return {key: rounded(value) for key, value in content.items()}
    if isinstance(content, list):
        return [rounded(value) for value in content]
    return round(content, 9) if isinstance(content, float) else content


def summarize(path, target):
    """The summary of a directory, as JSON."""
    assert main(["analyze", str(path), "--json", str(target)]) == 0
    return json.loads(target.read_text())


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_collected_spans_give_the_report_of_the_engines_own(protocol, tmp_path):
    """Joined with the log, what came over OTLP says the same as what was written beside it."""
    own, collected = tmp_path / "run", tmp_path / "collected"
    with collecting(collected) as collection:
        url = f"http://{collection.grpc}" if protocol == "grpc" else collection.url
        options = ("--dp-size", "4", "--enable-prefill-delayer", "--time-scale", "0.05")
        with serving(own, *options, "--otlp-endpoint", url, "--otlp-protocol", protocol) as engine:
            for k in range(5):
                engine.generate_at_once(
                    [prompt(3000 * (1 + r), rid=f"g{k}-{r}", bootstrap_room=r) for r in range(4)]
                )
            assert engine.stop() == 0
    num_spans = sum(
        len(scope["spans"])
        for line in (own / "spans.jsonl").read_text().splitlines()
        for resource in json.loads(line)["resourceSpans"]
        for scope in resource["scopeSpans"]
    )
    assert f"{num_spans} spans sent" in engine.said
    assert collection.session.tally.num_spans == num_spans

    joined = tmp_path / "joined"
    joined.mkdir()
    shutil.copy(collected / "spans.pb", joined)
    for name in ("server.log", "metrics_before.txt", "metrics_after.txt"):
        shutil.copy(own / name, joined)
    ours, theirs = (summarize(path, tmp_path / "x.json") for path in (own, joined))
    for part in ("metrics", "ttft_breakdown"):
        assert rounded(ours[part]) == rounded(theirs[part])
    assert ours["metrics"]["num_requests"]["value"] == 24
    first, second = (
        pdtrace.load(path).requests.sort("rid").drop("source", "source_id", "line")
        for path in (own / "spans.jsonl", collected / "spans.pb")
    )
    assert first.filter(pl.col("selected").is_null()).is_empty()
    assert first.equals(second)


def test_an_endpoint_that_is_gone_is_counted_and_holds_nothing_up(tmp_path, monkeypatch):
    """Spans that nobody takes are told in the end; requests are answered all the same."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    options = ("--time-scale", "0.05", "--otlp-endpoint", "http://127.0.0.1:9")
    with serving(tmp_path / "run", *options) as engine:
        assert engine.generate(**prompt(10))["meta_info"]["prompt_tokens"] == 10
        assert engine.stop() == 0
    assert "0 spans sent, " in engine.said
    assert "not taken" in engine.said
    assert engine.complained.count("\n") == 1

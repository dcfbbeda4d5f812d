"""A recorded run, played to a collection by all three ways, is read as the recording was."""

from __future__ import annotations

import gzip
import time
from pathlib import Path

import msgspec
import polars as pl
import pytest
import zstandard

import pdtrace
from tests.collect.running import ROOT, collecting, wait_until
from tests.collect.test_http import JSON, post
from tests.collect.test_scraper import Engine
from tests.collect.test_subscriber import Rank, join, read_frames

RECOGNISED = {"spans.pb", "fpm.bin", "metrics_before.txt", "metrics_after.txt"}
SAMPLE = ROOT / "sample_logs" / "cpu-dp4-on"


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample's spans and frames, and an engine's metrics, as a collection wrote them."""
    folder = tmp_path_factory.mktemp("collect")
    run = folder / "run"
    engine = Engine()
    ranks = [Rank(folder / "fpm", rank) for rank in range(4)]
    packed = (SAMPLE / "fpm.bin.zst").read_bytes()
    (folder / "fpm.bin").write_bytes(
        zstandard.ZstdDecompressor().decompressobj().decompress(packed)
    )
    endpoints = tuple(r.endpoint for r in ranks)
    with collecting(run, fpm_endpoints=endpoints, metrics_urls=(engine.url,)) as running:
        for line in gzip.decompress((SAMPLE / "spans.jsonl.gz").read_bytes()).splitlines():
            answer, text = post(running, line, JSON)
            assert (answer.status, text) == (200, b"{}")
        join(running, ranks)
        frames = read_frames(folder / "fpm.bin")
        for _, payload in frames:
            said = msgspec.msgpack.decode(payload)
            number = (1000 + said["counter_id"]).to_bytes(8, "big")
            ranks[said["dp_rank"]].socket.send_multipart([b"", number, payload])
        wait_until(lambda: running.session.tally.num_frames >= len(frames) + 4)
        time.sleep(0.1)
    engine.shutdown()
    engine.server_close()
    for rank in ranks:
        rank.close()
    stored = {payload for _, payload in read_frames(run / "fpm.bin")}
    assert {payload for _, payload in frames} <= stored
    return run


def test_spans_are_read_as_those_of_the_recording(collected: Path) -> None:
    """Iterations rebuilt from collected spans are the recording's."""
    ours = pdtrace.load(str(collected / "spans.pb"))
    theirs = pdtrace.load(str(SAMPLE / "spans.jsonl.gz"))
    assert ours.iterations.height > 200
    times = pl.col("start", "forward_iter", "fusion_width", "num_new_tokens")
    assert ours.iterations.select(times).equals(theirs.iterations.select(times))


def test_every_file_of_the_directory_is_recognised(collected: Path) -> None:
    """The run directory is what analyze takes, without options."""
    run = pdtrace.load(str(collected))
    assert {Path(f.path).name for f in run.files} == RECOGNISED

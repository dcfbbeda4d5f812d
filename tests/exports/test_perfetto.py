"""The Perfetto trace, read back with Perfetto's own message classes."""

from __future__ import annotations

import datetime as dt
import io
import tracemalloc
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest

import pdtrace
from pdtrace.__main__ import main
from pdtrace.delayer.ledger import build_ledger
from pdtrace.exports.pass_times import PassTimes
from pdtrace.exports.perfetto import write_perfetto
from pdtrace.exports.perfetto_wire import encode_int, encode_varint
from pdtrace.run import DelayerInfo, Incident, Run
from pdtrace.schema import DECISIONS, REQUESTS
from pdtrace.untrusted import show
from tests.exports.decoded_trace import DecodedTrace, Slice, decode
from tests.figures.made_run import make_run
from tests.metrics import hand_counted as hand

SAMPLES = Path(__file__).parent.parent.parent / "sample_logs"
RUNS = (
    "h100x2-on", "h100x2-off", "h100x2-on-watermark", "h100x2-off-crash", "cpu-dp8-off",
    "cpu-dp4-on-defaultlog",
)  # fmt: skip
ROLES = {"prefill", "decode", "idle", "unknown"}
EVIL = "evil\x1b[31m\u202e<b>"


def write(run: Run) -> DecodedTrace:
    """Write a run and decode what was written."""
    stream = io.BytesIO()
    num_packets = write_perfetto(run, stream)
    out = decode(stream.getvalue())
    assert out.num_packets == num_packets
    return out


def pass_slices(trace: DecodedTrace) -> list[Slice]:
    """Slices and instants on the tracks of the ranks, by iteration and rank."""
    both = [*trace.slices, *trace.instants]
    return sorted(
        (s for s in both if s.category in ROLES),
        key=lambda s: (s.args["iteration"], s.args["dp_rank"]),
    )


def ns(moment: dt.datetime) -> int:
    """Nanoseconds since 1970."""
    return (moment - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(microseconds=1) * 1000


@pytest.fixture(scope="module", params=RUNS)
def sample(request: pytest.FixtureRequest) -> tuple[Run, DecodedTrace]:
    """A recorded run, and its trace."""
    run = pdtrace.load(SAMPLES / request.param)
    return run, write(run)


def test_slices_are_the_rank_passes(sample: tuple[Run, DecodedTrace]) -> None:
    """Every rank pass is one slice, with the role, duration, tokens and line of its row."""
    run, trace = sample
    rows = list(
        run.rank_passes.with_columns(
            pl.col("role").cast(pl.String),
            pl.col("start").dt.epoch("ns").alias("start_ns"),
            pl.col("duration").dt.total_nanoseconds().alias("duration_ns"),
        )
        .join(run.iterations.select("iteration", "forward_iter", "end"), on="iteration")
        .sort("iteration", "dp_rank")
        .iter_rows(named=True)
    )
    slices = pass_slices(trace)
    assert len(slices) == len(rows)
    for s, row in zip(slices, rows, strict=True):
        assert (s.name, s.category, s.depth) == (row["role"], row["role"], 0)
        assert trace.path(s.track) == f"sglang prefill engine/rank {row['dp_rank']}"
        for name in ("iteration", "dp_rank", "forward_iter", "num_new_tokens", "num_new_seqs"):
            assert s.args.get(name) == row[name]
        assert s.args["is_observed"] == row["is_observed"]
        assert s.args["confidence"] == pytest.approx(row["confidence"], abs=1e-6)
        assert s.args.get("line") == row["line"]
        if row["line"] is not None:
            assert s.args["file"] == show(run.files[row["source_id"]].path)
        assert s.end is not None
        assert s.end - s.begin == row["duration_ns"]
        # It begins at its selection, or where the pass before let go of the engine.
        ahead = round(s.args.get("selected_ahead_s", 0) * 1e9)
        assert s.begin == pytest.approx(row["start_ns"] + ahead, abs=4)
        # ``end`` in Python has microseconds only.
        assert s.end <= ns(row["end"]) + 1000


def test_slices_of_a_rank_do_not_overlap(sample: tuple[Run, DecodedTrace]) -> None:
    """Overlapping slices of one track would nest, and a pass would seem part of another."""
    run, trace = sample
    for rank in range(run.dp_size):
        mine = [s for s in pass_slices(trace) if s.args["dp_rank"] == rank]
        for before, after in pairwise(mine):
            assert before.end is not None
            assert before.end <= after.begin


def test_idle_slices_add_up_to_the_metric(sample: tuple[Run, DecodedTrace]) -> None:
    """The idle time drawn is the idle time reported."""
    run, trace = sample
    metrics = {
        name: value
        for name, rank, value in pdtrace.measure(run)
        .select("metric", "dp_rank", "value")
        .iter_rows()
        if rank is None
    }
    drawn = sum((s.end or 0) - s.begin for s in trace.slices if s.category == "idle") / 1e9
    assert drawn == pytest.approx(metrics["idle_rank_seconds"], rel=1e-9)


def test_arrows_lead_from_requests_to_their_passes(sample: tuple[Run, DecodedTrace]) -> None:
    """Each arrow starts at a request of the rank, and a pass has as many as it prefilled."""
    _, trace = sample
    for slices in trace.arrows().values():
        request, *passes = slices
        assert request.category == "request"
        assert passes
        ranks = {s.args["dp_rank"] for s in passes}
        assert len(ranks) == 1
        assert f"requests of rank {ranks.pop()}" in trace.path(request.track)
        assert {s.name for s in passes} <= {"prefill", "selected"}
    arrows = Counter(
        (s.args["iteration"], s.args["dp_rank"])
        for s in (*trace.slices, *trace.instants) if s.name in ("prefill", "selected")
        for _ in s.flows
    )  # fmt: skip
    prefills = [s for s in trace.slices if s.category == "prefill"]
    fits = sum(
        arrows[s.args["iteration"], s.args["dp_rank"]] == s.args["num_new_seqs"] for s in prefills
    )
    assert fits >= 0.995 * len(prefills)


def test_counters_follow_the_iterations(sample: tuple[Run, DecodedTrace]) -> None:
    """Idle ranks, width and new tokens are those of the iterations, zero in the pauses between."""
    run, trace = sample
    times = PassTimes()
    placed = pl.concat([times.place(part) for part in run])
    engine = "sglang prefill engine"
    for name, column in (
        ("idle ranks", "num_idle_ranks"),
        ("fusion width", "fusion_width"),
        ("new tokens", "num_new_tokens"),
    ):
        points = trace.counters[f"{engine}/{name}"]
        values = dict(points)
        for begin, value in placed.select("begin_ns", column).iter_rows():
            assert values[begin] == value
        num_pauses = (placed["begin_ns"].shift(-1) > placed["stop_ns"]).sum()
        assert len(points) == placed.height + num_pauses + 1
        assert points[-1] == (placed["stop_ns"][-1], 0)
    told = run.events.filter(pl.col("dp_rank") == 0).drop_nulls("token_usage")
    usage = trace.counters[f"{engine}/rank 0/token usage, rank 0"]
    assert [v for _, v in usage] == told.sort("ts", maintain_order=True)["token_usage"].to_list()


def test_requests_show_their_stages() -> None:
    """A request is one slice from its first to its last time, its stages nested in it."""
    run = pdtrace.load(SAMPLES / "h100x2-on", sources=["scheduler_log"])
    trace = write(run)
    outer = {s.name: s for s in trace.slices if s.category == "request" and s.depth == 0}
    assert len(outer) == run.requests.height
    for row in run.requests.iter_rows(named=True):
        s = outer[row["rid"]]
        assert s.begin == ns(row["received"])
        assert s.end == ns(row["finished"])
        stages = {
            q.name: q for q in trace.slices
            if q.track == s.track and q.depth == 1 and s.begin <= q.begin < (s.end or 0)
        }  # fmt: skip
        if row["queued"] < row["selected"]:
            queued = stages["queued"]
            assert (queued.begin, queued.end) == (ns(row["queued"]), ns(row["selected"]))


def test_waits_are_the_ledgers() -> None:
    """Each rank that an episode held has a slice from its begin to its end, and no other has."""
    run = pdtrace.load(SAMPLES / "h100x2-on")
    trace = write(run)
    seen = sorted(
        (trace.path(s.track).rsplit("/", 2)[1], s.name, s.args["episode"], s.begin, s.end)
        for s in trace.slices if s.category == "delay"
    )  # fmt: skip
    told = sorted(
        (f"rank {rank}", f"delay, {r['ended_by']}", r["episode"], ns(r["begin"]), ns(r["end"]))
        for r in build_ledger(run).episodes.iter_rows(named=True)
        for rank in r["held_ranks"].split(",")
    )
    assert len(seen) > 200
    assert [s[:3] for s in seen] == [t[:3] for t in told]
    # Python's times of day are cut to microseconds
    both = zip(seen, told, strict=True)
    assert all(0 <= a - b < 1000 for s, t in both for a, b in zip(s[3:], t[3:], strict=True))


def test_a_wait_of_unknown_begin_is_a_mark() -> None:
    """A log alone tells when a wait ran out, not since when: nothing is drawn that nobody knows."""
    delayer = DelayerInfo(enabled=True, max_delay_passes=30)
    run = hand.build([(100, {0: 9, 1: 9}), (100, {1: 9})])
    run = replace(run, engine=replace(run.engine, delayer=delayer, role="prefill"))
    trace = write(run)
    assert not [s for s in trace.slices if s.category == "delay"]
    (mark,) = (s for s in trace.instants if s.category == "delay")
    assert (mark.name, mark.args["iteration"], mark.args["delay_passes"]) == (
        "delay, timeout", 1, 29,
    )  # fmt: skip
    assert "rank 1" in trace.path(mark.track)


def test_unknown_durations_and_roles_stay_unknown() -> None:
    """A pass of unknown duration is a mark, not a slice, and a silent rank may be unknown."""
    trace = write(hand.build([(100, {0: 9}), (None, {0: 9}), (100, {1: 9})], unknown=True))
    marks = [s for s in trace.instants if s.category in ROLES]
    assert [(s.args["iteration"], s.name) for s in marks] == [(1, "prefill"), (1, "unknown")]
    assert "idle" not in {s.name for s in trace.slices}
    assert any(v == 1 for _, v in trace.counters["sglang prefill engine/unknown ranks"])


def test_text_of_the_input_cannot_break_the_trace() -> None:
    """Ids, paths and log lines with control characters or broken text are shown escaped."""
    request = hand.request(EVIL, 0, 100)
    run = hand.build(
        [(100, {0: 9})],
        path=EVIL,
        requests=[request],
        incidents=[Incident("crash", hand.START, 0, 4, 1, 0, EVIL * 200)],
    )
    trace = write(run)
    texts = [s.name for s in trace.slices] + [
        v for s in (*trace.slices, *trace.instants) for v in s.args.values() if isinstance(v, str)
    ]
    assert show(EVIL) in texts
    assert all(t.isprintable() for t in texts)
    (crash,) = (s for s in trace.instants if s.category == "incident")
    assert (crash.name, crash.begin, crash.args["line"]) == ("crash", hand.START, 4)


def test_parts_change_nothing() -> None:
    """A run in many parts gives the same slices and arrows as in one."""
    whole = pdtrace.load(SAMPLES / "cpu-dp4-off")
    (part,) = whole
    cuts = [0, 50, 51, 200, 400, part.iterations.height]
    parts = []
    for a, b in pairwise(cuts):
        rows = part.iterations.slice(a, b - a)
        numbers = rows["iteration"].implode()
        events = part.events.filter(pl.col("iteration").is_in(numbers))
        parts.append(replace(part, events=events, iterations=rows))
    one, many = write(whole), write(replace(whole, parts=parts))
    assert pass_slices(one) == pass_slices(many)
    assert (
        one.counters["sglang prefill engine/new tokens"]
        == (many.counters["sglang prefill engine/new tokens"])
    )


def test_an_empty_run_is_an_empty_trace() -> None:
    """A recording without an iteration still gives a file that opens."""
    empty = hand.build([])
    trace = write(replace(empty, requests=REQUESTS.empty(), decisions=DECISIONS.empty()))
    assert not trace.slices


def test_memory_does_not_grow_with_the_run() -> None:
    """Parts are written one by one, so a long run needs no more memory than a short one."""

    class Sink(io.RawIOBase):
        def write(self, data: object) -> int:
            return len(data)  # type: ignore[arg-type]

    peaks = []
    for num_parts in (2, 8):
        run = make_run(num_parts * 2_000, part_size=2_000)
        write_perfetto(run, Sink())  # type: ignore[arg-type]
        tracemalloc.start()
        write_perfetto(run, Sink())  # type: ignore[arg-type]
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0]


@pytest.mark.parametrize(
    ("number", "varint"),
    [(0, "00"), (1, "01"), (127, "7f"), (128, "8001"), (300, "ac02"), (16384, "808001"),
     (-1, "ffffffffffffffffff01"), (2**63, "80808080808080808001")],
)  # fmt: skip
def test_varints(number: int, varint: str) -> None:
    """Integers are encoded as the protobuf specification's examples and limits say."""
    assert encode_varint(number).hex() == varint
    assert encode_int(1, number).hex() == "08" + varint


def test_command_writes_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command writes a file that decodes, and refuses options of other exports."""
    target = tmp_path / "run.pftrace"
    path = str(SAMPLES / "h100x2-on" / "server.log")
    assert main(["export", "perfetto", path, "-o", str(target)]) == 0
    assert len([s for s in decode(target.read_bytes()).slices if s.category in ROLES]) == 554
    for extra in (["--format", "csv"], ["--endpoint", "http://127.0.0.1"], ["--insecure"]):
        assert main(["export", "perfetto", path, *extra]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert main(["export", "perfetto", path]) == 2
    assert "-o" in capsys.readouterr().err

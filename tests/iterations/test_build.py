"""From recordings to iterations: what is joined, what is not, and what is said of it."""

import json
import random
import re
from pathlib import Path

import pytest

import pdtrace

SAMPLES = Path(__file__).parents[2] / "sample_logs"
STAMP = re.compile(r"^\[(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)(\.\d{3})")


def read_sample(name):
    """Lines of a plain sample log."""
    return (SAMPLES / name / "server.log").read_text(errors="replace").splitlines(keepends=True)


def without_labels(lines):
    """The same lines without iteration labels."""
    return [re.sub(r"( batch) \[\d+\]", r"\1", x) for x in lines]


def load(tmp_path, lines, **options):
    """Run rebuilt from lines."""
    path = tmp_path / "server.log"
    path.write_text("".join(lines))
    return pdtrace.load(path, **options)


def blocks(run, order=None):
    """Iterations as sets of (rank, tokens, nth line of the rank)."""
    seen, out = {}, {}
    events = run.events.filter(run.events["iteration"].is_not_null()).sort("dp_rank", "line")
    for rank, tokens, number in zip(
        events["dp_rank"], events["num_new_tokens"], events["iteration"], strict=True
    ):
        seen[rank] = seen.get(rank, 0) + 1
        out.setdefault(number, set()).add((rank, tokens, seen[rank]))
    return {frozenset(b) for b in out.values()}


def interleave(lines, seed):
    """Another interleaving of the ranks' prefill lines, each rank in its own order."""
    rng = random.Random(seed)
    head = [x for x in lines if "Prefill batch" not in x]
    ranks = {}
    for x in lines:
        if "Prefill batch" in x:
            ranks.setdefault(re.search(r" DP(\d+)", x)[1], []).append(x)
    queues, out = list(ranks.values()), []
    while queues:
        queue = rng.choice(queues)
        out.append(queue.pop(0))
        queues = [q for q in queues if q]
    return head + out


@pytest.mark.parametrize("seed", range(3))
def test_any_interleaving_of_labelled_lines_gives_the_same_iterations(tmp_path, seed):
    """Guards grouping by label against the order in which processes happened to write."""
    lines = read_sample("h100x2-on")
    assert blocks(load(tmp_path, interleave(lines, seed))) == blocks(load(tmp_path, lines))


@pytest.mark.parametrize("seed", range(3))
def test_any_interleaving_of_stamped_lines_gives_the_same_iterations(tmp_path, seed):
    """Guards grouping by milliseconds against the order of writing: only the stamps count."""
    lines = without_labels(read_sample("h100x2-on"))
    assert blocks(load(tmp_path, interleave(lines, seed))) == blocks(load(tmp_path, lines))


def test_restart_starts_numbering_anew(tmp_path):
    """Guards against joining label 5 of one start with label 5 of the next."""
    first, second = read_sample("h100x2-off"), read_sample("h100x2-on")
    run = load(tmp_path, first + second)
    assert len(run.iterations) == 381 + 277
    assert run.iterations["engine_run"].n_unique() == 2


def test_independent_replicas_are_not_joined(tmp_path):
    """Guards the lock-step assumption: dp_size 2 without DP attention means two engines."""
    lines = [
        x.replace("enable_dp_attention=True", "enable_dp_attention=False")
        for x in without_labels(read_sample("h100x2-off"))
    ]
    run = load(tmp_path, lines)
    assert len(run.iterations) == 0
    assert any("lock-step" in w for w in run.warnings)
    assert run.events["num_new_tokens"].sum() == 1_919_001


def test_rank_without_any_line_is_unknown_not_idle(tmp_path):
    """Guards the difference between a silent rank and a missing file."""
    lines = [x for x in read_sample("h100x2-off") if " DP1 " not in x[:60]]
    run = load(tmp_path, lines)
    passes = run.rank_passes
    assert set(passes.filter(passes["dp_rank"] == 1)["role"]) == {"unknown"}
    assert any("DP rank 1" in w for w in run.warnings)
    assert any("have no line" in w for w in run.warnings)


def test_whole_seconds_without_throughput_are_refused_in_words(tmp_path):
    """Guards against inventing iterations where nothing tells times under a second."""
    lines = [
        re.sub(r", input throughput.*", "", STAMP.sub(r"[\1", x))
        for x in without_labels(read_sample("h100x2-off"))
    ]
    run = load(tmp_path, lines)
    assert len(run.iterations) == 0
    assert any("SGLANG_LOG_MS=1" in w for w in run.warnings)


@pytest.mark.parametrize("labels", [True, False])
def test_skewed_clocks_of_one_file_a_rank_are_aligned(tmp_path, labels):
    """Guards multi-node logs: a clock 1.3 s ahead changes no iteration, and is reported."""
    from datetime import datetime, timedelta

    lines = read_sample("h100x2-on")
    if not labels:
        lines = without_labels(lines)
    lines = [x for x in lines if "ReqTimeStats" not in x]
    files = []
    for rank in (0, 1):
        mine = [x for x in lines if f" DP{rank} " in x[:60] or ("server_args" in x and rank == 0)]
        if rank == 1:
            mine = [
                STAMP.sub(
                    lambda m: "[" + (
                        datetime.fromisoformat(m[1] + m[2]) + timedelta(seconds=1.3)
                    ).isoformat(sep=" ", timespec="milliseconds"), x
                )
                for x in mine
            ]  # fmt: skip
        files.append(tmp_path / f"rank{rank}.log")
        files[-1].write_text("".join(mine))
    run = pdtrace.load(*files)
    truth = json.loads((SAMPLES / "h100x2-on" / "truth.json").read_text())
    widths = run.iterations["fusion_width"].value_counts().sort("fusion_width")["count"].to_list()
    assert widths == [truth["ranks_per_iteration"]["1"], truth["ranks_per_iteration"]["2"]]
    assert any("clock" in w for w in run.warnings)


@pytest.mark.parametrize("form", ["milliseconds", "seconds"])
def test_pieces_of_a_rotated_log_are_one_log(tmp_path, form):
    """Guards rotation: three pieces, the newest first, give the iterations of the whole log."""
    lines = without_labels(read_sample("h100x2-off"))
    lines = [x for x in lines if "ReqTimeStats" not in x]
    if form == "seconds":
        lines = [STAMP.sub(r"[\1", x) for x in lines]
    whole = load(tmp_path, lines)
    n = len(lines)
    pieces = [lines[: n // 3], lines[n // 3 : 2 * n // 3], lines[2 * n // 3 :]]
    paths = [tmp_path / f"server.log.{i}" for i in (2, 1, 0)]
    for path, piece in zip(paths, pieces, strict=True):
        path.write_text("".join(piece))
    run = pdtrace.load(*reversed(paths))
    assert run.iterations["fusion_width"].to_list() == whole.iterations["fusion_width"].to_list()
    assert run.warnings == whole.warnings


def test_grid_is_complete_and_adds_up(tmp_path):
    """Guards the grid: one row for each iteration × rank, and its roles add up to the widths."""
    run = load(tmp_path, read_sample("h100x2-off"))
    passes, iterations = run.rank_passes, run.iterations
    assert len(passes) == 2 * len(iterations)
    assert (passes["role"] == "prefill").sum() == iterations["fusion_width"].sum()
    assert (passes["role"] == "idle").sum() == iterations["num_idle_ranks"].sum()


def test_durations_of_a_run_do_not_overlap(tmp_path):
    """Guards busy time: passes are shares of one time line, so their sum is at most its span."""
    run = load(tmp_path, read_sample("h100x2-off"))
    busy = run.iterations["duration"].sum()
    span = run.iterations["end"].max() - run.iterations["start"].min()
    assert busy <= span

"""Reads recorded negotiations and compares the policy with them, pass by pass."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pdtrace.delayer import Ask, PolicyConfig, RankInput, RankOutput, RankState, negotiate
from pdtrace.delayer.rules import ReleaseRules, rules_for

CONFIG_FIELDS = (
    "dp_size",
    "enable_dp_attention",
    "attn_tp_size",
    "attn_cp_size",
    "world_size",
    "max_delay_passes",
    "token_usage_low_watermark",
    "queue_min_ratio",
    "max_delay_ms",
    "prefill_max_requests",
    "tracker_window",
)
ASK_FIELDS = ("running_batch", "max_prefill_bs", "max_running_requests", "waiting_queue_len")


@dataclass
class Comparison:
    """What was compared in one file, and every cell that differed."""

    version: str
    num_scenarios: int = 0
    num_passes: int = 0
    cells: Counter[str] = field(default_factory=Counter)
    differences: list[str] = field(default_factory=list)


def read_recording(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Header and scenarios of one file."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as lines:
        header, *scenarios = (json.loads(line) for line in lines if line.strip())
    assert header["type"] == "header", f"{path}: the first line is no header"
    assert header["format_version"] == 1, f"{path}: unknown format {header['format_version']}"
    return header, scenarios


def read_config(config: dict[str, Any]) -> PolicyConfig:
    """The settings of a scenario; a field that is not known here would be ignored, so it fails."""
    unknown = set(config) - set(CONFIG_FIELDS)
    assert not unknown, f"unknown config fields: {sorted(unknown)}"
    return PolicyConfig(**config)


def spread(column: Any, num_ranks: int) -> list[Any]:
    """A column as one value a rank."""
    return column if isinstance(column, list) else [column] * num_ranks


def read_inputs(given: dict[str, Any], num_ranks: int) -> list[RankInput]:
    """Each rank's input of one pass."""
    columns = {name: spread(column, num_ranks) for name, column in given.items()}
    inputs = []
    for rank in range(num_ranks):
        asks: tuple[Ask, ...] = ()
        if columns["prefillable"][rank]:
            first = {n: columns[n][rank] for n in ASK_FIELDS if n in columns}
            later = given.get("extra_calls", {}).get(str(rank), [])
            asks = (Ask(**first), *(Ask(*values) for values in later))
        inputs.append(
            RankInput(
                token_usage=columns["token_usage"][rank],
                asks=asks,
                actual_prefill_bs=columns["actual_prefill_bs"][rank],
            )
        )
    return inputs


def flatten(state: RankState, output: RankOutput) -> dict[str, Any]:
    """A rank's output under the recorded column names."""
    verdict, wait = output.verdict, state.wait
    return {
        "input_estimation": verdict.input_estimation,
        "output_allow": verdict.output_allow,
        "output_reason": verdict.output_reason,
        "num_prefillable": verdict.num_prefillable,
        "num_token_watermark_force_allow": verdict.num_token_watermark_force_allow,
        "wait_forward_passes": verdict.wait_forward_passes,
        "wait_seconds": verdict.wait_seconds,
        "next_delayed_count": None if wait is None else wait.delayed_count,
        "next_start_time": None if wait is None else wait.start_time,
        "skip_first_delayer": state.is_skip_first_armed,
        "metric_forward_passes": output.metric_forward_passes,
        "metric_wait_seconds": output.metric_wait_seconds,
        "finalize_return": output.finalize_return,
        "max_prefill_bs_after": output.max_prefill_bs_after,
    }


def replay(
    rules: ReleaseRules, scenario: dict[str, Any]
) -> Iterator[tuple[int, dict[str, Any], list[dict[str, Any]], list[list[int]]]]:
    """Pass index, recorded pass, and what the policy gives for it: columns by rank, and rows."""
    config = read_config(scenario["config"])
    ranks = config.num_ranks
    states: tuple[RankState, ...] = (RankState(),) * ranks
    for index, recorded in enumerate(scenario["passes"]):
        t = spread(recorded["t"], ranks)
        t2 = spread(recorded.get("t2", recorded["t"]), ranks)
        inputs = read_inputs(recorded["in"], ranks)
        states, outputs = negotiate(config, rules, states, inputs, t, t2)
        columns = [flatten(s, o) for s, o in zip(states, outputs, strict=True)]
        yield index, recorded, columns, [list(o.gathered) for o in outputs]


def compare(path: Path) -> Comparison:
    """Compare every cell of every pass of a recording with the policy."""
    header, scenarios = read_recording(path)
    version = header["sglang_version"]
    rules = rules_for(version)
    result = Comparison(version)
    assert list(rules.gathered_fields) == header["gathered_fields"], version
    for scenario in scenarios:
        result.num_scenarios += 1
        for index, recorded, columns, rows in replay(rules, scenario):
            result.num_passes += 1
            where = f"{version} {scenario['id']} pass {index}"
            for rank in range(len(columns)):
                got = {**columns[rank], "gathered": rows[rank]}
                expected = {"gathered": recorded["gathered"][rank]}
                for name, column in recorded["out"].items():
                    expected[name] = spread(column, len(columns))[rank]
                for name, value in expected.items():
                    result.cells[name] += 1
                    if name not in got or got[name] != value:
                        result.differences.append(
                            f"{where} rank {rank} {name}: "
                            f"expected {value!r}, got {got.get(name, 'no such column')!r}"
                        )
    return result

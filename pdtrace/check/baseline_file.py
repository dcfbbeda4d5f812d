"""The baseline as a JSON file: sorted, a quantity a line, versioned, and checked when it is read.

History of ``baseline_version``: 1, the first.
"""

from __future__ import annotations

import json
import math
import sys
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

import pdtrace
from pdtrace.check.baseline import MOST_RUNS, Baseline
from pdtrace.check.measures import FEATURES, SKETCHES
from pdtrace.check.records import Record
from pdtrace.check.samples import Cell, Sample, Sketch, Workload
from pdtrace.compare.settings import UNSET, select_flags
from pdtrace.errors import InputError
from pdtrace.run import DelayerInfo, EngineInfo
from pdtrace.untrusted import show

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    F64 = NDArray[np.float64]

BASELINE_VERSION = 1
MOST_BYTES = 64_000_000
MOST_BLOCKS = 100_000
_ENGINE = ("engine", "release_min", "release_max", "dp_size", "tp_size", "ep_size", "pp_size",
           "role", "enable_dp_attention", "model_path")  # fmt: skip
_DELAYER = ("enabled", "max_delay_passes", "token_usage_low_watermark", "queue_min_ratio",
            "max_delay_ms")  # fmt: skip
_COUNTS = ("num_requests", "num_unanswered", "num_iterations", "num_stalls")


def write_baseline(baseline: Baseline) -> str:
    """The file's text, the same for the same runs to the last byte."""
    engine = baseline.engine
    tree = {
        "baseline_version": BASELINE_VERSION,
        "pdtrace_version": pdtrace.__version__,
        "engine": {key: getattr(engine, key) for key in _ENGINE},
        "dp_size": baseline.dp_size,
        "delayer": {key: getattr(engine.delayer, key) for key in _DELAYER},
        **_dump_flags(engine.server_args),
        "workload": {
            "is_named": baseline.workload.is_named,
            "phases": [
                {"name": name, "requests": list(cell.requests), "tokens": list(cell.tokens)}
                for name, cell in baseline.workload.cells.items()
            ],
        },
        "runs": [_dump_run(record) for record in baseline.records],
    }
    return "\n".join(_lines(tree, 0)) + "\n"


def _dump_flags(server_args: dict[str, str]) -> dict[str, Any]:
    """Flags that are set one a line; the others' names by what stands for unset."""
    flags = select_flags(server_args)
    return {
        "flags": {key: value for key, value in flags.items() if value not in UNSET},
        "unset_flags": {u: [key for key, value in flags.items() if value == u] for u in UNSET},
    }


def _dump_run(record: Record) -> dict[str, Any]:
    sample = record.sample
    table: dict[str, list[Any]] = {
        name: [_plain(x) for x in sample.column(name)] for name in FEATURES
    }
    table["usable"] = [int(x) for x in sample.is_usable]
    table["unanswered"] = [_plain(x) for x in sample.unanswered]
    table["span_s"] = [_plain(x) for x in sample.span_s]
    for name, sketch in sample.sketches.items():
        cells: list[list[float]] = [[] for _ in range(len(sample.is_usable))]
        for value, block, weight in zip(sketch.values, sketch.blocks, sketch.weights, strict=True):
            cell = cells[int(block)]
            cell += [_plain(value * 1e3, 12) or 0, _plain(weight) or 0]
        # times in milliseconds; each is followed by how many requests it stands for, unless all
        # stand for one
        plain = bool((sketch.weights == 1).all())
        table[f"{name}_ms"] = [c[::2] if plain else c for c in cells]
        table[f"{name}_is_plain"] = [int(plain)]
    phases = {}
    for name, place in record.workload.places().items():
        phases[name] = {
            key: values if key.endswith("_is_plain") else values[place]
            for key, values in table.items()
        }
    return {
        "name": record.name,
        "files": list(record.files),
        "grouping": record.grouping,
        "confidence": _plain(record.confidence),
        **{key: getattr(record, key) for key in _COUNTS},
        "metrics": {m: [_plain(v), unit] for m, (v, unit) in record.metrics.items()},
        "phases": phases,
    }


def _plain(value: float | None, digits: int = 15) -> float | int | None:
    """A number as JSON has it: whole ones without a point, none for what is not known."""
    if value is None or not math.isfinite(value):
        return None
    value = float(f"{value:.{digits}g}")
    return int(value) if value == int(value) else value


def _lines(value: Any, depth: int) -> list[str]:  # noqa: ANN401 (any JSON)
    """JSON, indented, keys sorted, a list without dictionaries on one line."""
    pad = " " * depth
    if isinstance(value, dict) and value:
        out = ["{"]
        for k, (key, item) in enumerate(sorted(value.items())):
            inner = _lines(item, depth + 1)
            inner[0] = f"{pad} {json.dumps(key)}: {inner[0]}"
            inner[-1] += "," if k < len(value) - 1 else ""
            out += inner
        return [*out, f"{pad}}}"]
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        out = ["["]
        for k, item in enumerate(value):
            inner = _lines(item, depth + 1)
            inner[0] = f"{pad} {inner[0]}"
            inner[-1] += "," if k < len(value) - 1 else ""
            out += inner
        return [*out, f"{pad}]"]
    return [json.dumps(value, allow_nan=False)]


class _Reader:
    """Takes values out of a parsed file and refuses what does not belong there."""

    def __init__(self, path: str) -> None:
        self.path = path

    def refuse(self, what: str) -> NoReturn:
        raise InputError(
            f"not a baseline that check wrote: {what}; remove it, and --update-baseline writes "
            "another",
            path=show(self.path),
        )

    def table(self, value: Any, what: str) -> dict[str, Any]:  # noqa: ANN401
        if not isinstance(value, dict):
            self.refuse(f"{what} is no object")
        return value

    def get(self, table: dict[str, Any], key: str, kinds: tuple[type, ...]) -> Any:  # noqa: ANN401
        value = table.get(key)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            self.refuse(f"'{key}' is missing or of the wrong kind")
        if isinstance(value, float) and not math.isfinite(value):
            self.refuse(f"'{key}' is not finite")
        return value

    def numbers(
        self, table: dict[str, Any], key: str, length: int | None = None, *, has_none: bool = False
    ) -> list[float]:
        values = self.get(table, key, (list,))
        if length is not None and len(values) != length:
            self.refuse(f"'{key}' has {len(values)} entries, not {length}")
        out = []
        for x in values:
            if x is None and has_none:
                out.append(math.nan)
            elif isinstance(x, int | float) and 0 <= x < 1e15:  # bool is one, and harmless
                out.append(float(x))
            else:
                self.refuse(f"'{key}' holds {show(str(x))[:40]}")
        return out


def read_baseline(path: Path) -> Baseline:
    """Read a baseline file.

    Raises:
        InputError: It is none, or one of a later version.
    """
    reader = _Reader(str(path))
    try:
        if path.stat().st_size > MOST_BYTES:
            reader.refuse("it is too long")
        text = path.read_text("utf-8")
    except OSError as error:
        is_missing = isinstance(error, FileNotFoundError)
        hint = " (--update-baseline writes it)" if is_missing else ""
        raise InputError(
            f"cannot be read: {error.strerror or error}{hint}",
            path=show(str(path)),
        ) from error
    except UnicodeDecodeError:
        reader.refuse("it is not UTF-8 text")
    try:
        tree = reader.table(json.loads(text), "it")
    except json.JSONDecodeError as error:
        raise InputError(
            f"not JSON: {error.msg}", path=show(str(path)), line=error.lineno
        ) from error
    except RecursionError:
        reader.refuse("it is nested too deeply")
    except ValueError:
        reader.refuse("it holds a number of thousands of digits")
    version = reader.get(tree, "baseline_version", (int,))
    if version != BASELINE_VERSION:
        reader.refuse(f"its version is {version}, this pdtrace reads {BASELINE_VERSION}")
    engine = _read_engine(reader, tree)
    dp_size = reader.get(tree, "dp_size", (int,))
    workload = _read_workload(reader, tree)
    runs = reader.get(tree, "runs", (list,))
    if not 1 <= len(runs) <= MOST_RUNS:
        reader.refuse(f"it has {len(runs)} runs")
    records = tuple(
        _read_run(reader, reader.table(r, "a run"), engine, dp_size, workload) for r in runs
    )
    return Baseline(records, str(tree.get("pdtrace_version", "")))


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and abs(value) <= sys.float_info.max


def _read_engine(reader: _Reader, tree: dict[str, Any]) -> EngineInfo:
    engine = reader.table(tree.get("engine"), "'engine'")
    delayer = reader.table(tree.get("delayer"), "'delayer'")
    flags = {str(k): str(v) for k, v in reader.table(tree.get("flags"), "'flags'").items()}
    for unset, names in reader.table(tree.get("unset_flags"), "'unset_flags'").items():
        flags |= {str(name): unset for name in reader.get({"names": names}, "names", (list,))}
    texts = ("release_min", "release_max", "role", "model_path")
    sizes = ("dp_size", "tp_size", "ep_size", "pp_size")
    none = type(None)
    return EngineInfo(
        engine=reader.get(engine, "engine", (str,)),
        **{key: reader.get(engine, key, (str, none)) for key in texts},
        **{key: reader.get(engine, key, (int, none)) for key in sizes},
        enable_dp_attention=reader.get(engine, "enable_dp_attention", (bool, none)),
        server_args=flags,
        delayer=DelayerInfo(
            reader.get(delayer, "enabled", (bool, none)),
            *(reader.get(delayer, key, (int, float, none)) for key in _DELAYER[1:]),
        ),
    )


def _read_workload(reader: _Reader, tree: dict[str, Any]) -> Workload:
    table = reader.table(tree.get("workload"), "'workload'")
    is_named = reader.get(table, "is_named", (bool,))
    cells: dict[str, Cell] = {}
    for item in reader.get(table, "phases", (list,)):
        phase = reader.table(item, "a phase")
        name = reader.get(phase, "name", (str,))
        requests = reader.numbers(phase, "requests")
        tokens = reader.numbers(phase, "tokens", len(requests))
        if name in cells:
            reader.refuse(f"phase '{show(name)}' is there twice")
        cells[name] = Cell(tuple(map(int, requests)), tuple(map(int, tokens)))
    workload = Workload(cells, is_named=is_named)
    if not 1 <= workload.num_blocks <= MOST_BLOCKS:
        reader.refuse(f"it has {workload.num_blocks} blocks")
    return workload


def _read_run(
    reader: _Reader, run: dict[str, Any], engine: EngineInfo, dp_size: int, workload: Workload
) -> Record:
    phases = reader.table(run.get("phases"), "'phases'")
    columns: dict[str, list[float]] = {key: [] for key in (*FEATURES, "unanswered", "span_s")}
    usable: list[float] = []
    sketches: dict[str, tuple[list[float], list[int], list[float]]] = {}
    first = reader.table(phases.get(next(iter(workload.cells))), "a phase of a run")
    told = [name for name in SKETCHES if f"{name}_ms" in first]
    for name, place in workload.places().items():
        phase = reader.table(phases.get(name), f"phase '{show(name)}' of a run")
        size = place.stop - place.start
        for key in columns:
            columns[key] += reader.numbers(phase, key, size, has_none=True)
        usable += reader.numbers(phase, "usable", size)
        for sketch in told:
            plain = reader.numbers(phase, f"{sketch}_is_plain", 1)[0]
            lists = reader.get(phase, f"{sketch}_ms", (list,))
            if len(lists) != size:
                reader.refuse(f"'{sketch}_ms' has {len(lists)} entries, not {size}")
            values, blocks, weights = sketches.setdefault(sketch, ([], [], []))
            for k, each in enumerate(lists):
                numbers = reader.numbers({"ms": each}, "ms")
                if not plain and len(numbers) % 2:
                    reader.refuse(f"'{sketch}_ms' has a time without its number")
                values += numbers if plain else numbers[::2]
                weights += [1.0] * len(numbers) if plain else numbers[1::2]
                blocks += [place.start + k] * (len(numbers) if plain else len(numbers) // 2)
    metrics = reader.table(run.get("metrics"), "'metrics'")
    for name, cell in metrics.items():
        if not (isinstance(cell, list) and len(cell) == 2 and _is_finite(cell[0])):
            reader.refuse(f"metric '{show(name)}' is no pair of value and unit")
    confidence = reader.get(run, "confidence", (int, float, type(None)))
    files = reader.get(run, "files", (list,))
    return Record(
        name=reader.get(run, "name", (str,)),
        files=tuple(str(f) for f in files),
        engine=engine,
        dp_size=dp_size,
        grouping=reader.get(run, "grouping", (str,)),
        confidence=None if confidence is None else float(confidence),
        **{key: reader.get(run, key, (int,)) for key in _COUNTS},
        metrics={str(m): (float(v), str(u)) for m, (v, u) in metrics.items()},
        workload=workload,
        sample=Sample(
            counts=np.column_stack([columns[name] for name in FEATURES]),
            is_usable=np.array(usable, np.float64) > 0,
            unanswered=np.array(columns["unanswered"]),
            span_s=np.array(columns["span_s"]),
            sketches={
                name: Sketch(np.array(v) / 1e3, np.array(b, np.int64), np.array(w))
                for name, (v, b, w) in sketches.items()
            },
        ),
    )

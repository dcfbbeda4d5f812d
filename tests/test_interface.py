"""The page of promises and the program say the same."""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import fields
from pathlib import Path

import polars as pl
import pytest
from ruamel.yaml import YAML

from pdtrace import pytest_plugin
from pdtrace.__main__ import build_parser, main
from pdtrace.check.verdicts import Verdict, Where

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "interface.md").read_text(encoding="utf-8")
OFF, ON = (str(ROOT / "sample_logs" / name) for name in ("h100x2-off", "h100x2-on"))
ROWS = {
    found[1]: set(re.findall(r"--[a-z-]+", found[2]))
    for found in re.finditer(r"^\| `pdtrace (\w+)[^|]*\|[^|]*\| (.*) \|$", PAGE, re.MULTILINE)
}
SHARED = {"--dp-size", "--tz", "--source", "--debug", "--help"}


def verbs() -> dict[str, argparse.ArgumentParser]:
    """The parsers of the verbs there are."""
    (action,) = (
        a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction)
    )  # fmt: skip
    return dict(action.choices)


def names_after(text: str, end: str = r"\.\s") -> set[str]:
    """The names in backquotes between a text of the page and the end of its sentence."""
    found = re.search(re.escape(text) + r"(.*?)" + end, PAGE, re.DOTALL)
    assert found, text
    return set(re.findall(r"`(\w+)`", found[1]))


@pytest.mark.parametrize("verb", sorted(verbs()))
def test_every_command_is_on_the_page(verb):
    """A command that the page does not name would be used without any promise."""
    assert verb in ROWS


@pytest.mark.parametrize("verb", sorted(ROWS))
def test_every_promised_option_exists(verb):
    """An option that the page names and the program refuses is a broken promise."""
    has = {o for a in verbs()[verb]._actions for o in a.option_strings}
    assert has >= ROWS[verb]
    if any(a.dest == "paths" for a in verbs()[verb]._actions):
        assert has >= SHARED


@pytest.mark.parametrize("table", ["rank-passes", "iterations"])
def test_promised_columns_are_exported(table, tmp_path):
    """Scripts read exported tables by the names of their columns."""
    found = re.search(rf"^\| `{table}` \|[^|]*\| (.*) \|$", PAGE, re.MULTILINE)
    assert found
    target = tmp_path / "table.parquet"
    assert main(["export", table, f"{ON}/server.log", "-o", str(target)]) == 0
    assert set(pl.read_parquet_schema(target)) >= set(re.findall(r"`(\w+)`", found[1]))


def read_json(tmp_path: Path, *args: str) -> dict:
    """What a command writes as JSON."""
    target = tmp_path / "out.json"
    assert main([*args, "--json", str(target)]) == 0
    return json.loads(target.read_text(encoding="utf-8"), parse_constant=pytest.fail)


def test_summary_keeps_its_keys(tmp_path):
    """CI jobs read the summary by its keys, and refuse a version they do not know."""
    told = read_json(tmp_path, "analyze", ON)
    assert told["schema_version"] == 1
    assert told.keys() >= names_after("**`analyze --json`**, `schema_version` 1. Top: ")
    run = names_after("\n`run`: ")
    nested = {"enabled", "max_delay_passes", "token_usage_low_watermark"}
    assert told["run"].keys() >= run - nested
    assert told["run"]["delayer"].keys() >= nested <= run
    metrics = names_after("Metrics that stay: ")
    assert len(metrics) == 17
    assert told["metrics"].keys() >= metrics
    for cell in told["metrics"].values():
        assert cell.keys() >= {"value", "unit", "n", "note"}
        assert cell["value"] is not None or cell["note"]


def test_comparison_keeps_its_keys(tmp_path):
    """The same for the comparison, whose verdicts are a closed list."""
    told = read_json(tmp_path, "compare", OFF, ON)
    assert told["schema_version"] == 1
    assert told.keys() >= names_after("**`compare --json`**, `schema_version` 1. Top: ")
    verdicts = {"better", "worse", "same", "inconclusive", "unmeasured"}
    promised = names_after("`phases` `requests`. A metric: ", r"\)\.")
    assert promised > verdicts
    for row in told["metrics"].values():
        assert row.keys() >= promised - verdicts
        assert row["verdict"] in verdicts


def test_check_keeps_its_keys(tmp_path):
    """The same for the gate, whose verdicts and findings CI jobs read."""
    told = read_json(tmp_path, "check", ON, "idle_rank_pass_ratio<=0.3")
    assert told["schema_version"] == 1
    assert told.keys() == names_after("**`check --json`**, `schema_version` 1. Top: ")
    assert {str(v) for v in Verdict} == names_after("`notes`. `verdict`: ", r"\(the")
    (finding,) = told["findings"]
    promised = names_after("A finding: ") - {"A", "B", "relative", "absolute"}
    assert finding.keys() == promised
    assert {f.name for f in fields(Where)} == names_after("`where`: null, or ")
    (run,) = told["runs"]
    assert run.keys() == names_after("A run:\n")


def test_ci_names_stay():
    """Workflows and tests of others name these, and break where one is renamed."""
    action = YAML(typ="safe").load((ROOT / "action.yml").read_text(encoding="utf-8"))
    section = PAGE.partition("## CI\n")[2].partition("\n## ")[0]
    names = set(re.findall(r"`([\w-]+)`", section))
    assert names >= {*action["inputs"], *action["outputs"], *pytest_plugin.KNOWN}
    attributes = {"directory", "add", "follow", "collect", "judge"}
    assert names >= attributes <= {*dir(pytest_plugin.RecordedRun), "directory"}


def test_forecast_keeps_its_keys(tmp_path):
    """The same for the prediction, in which measured and predicted can be laid side by side."""
    told = read_json(tmp_path, "whatif", OFF, "--max-delay-passes", "30")
    assert told["schema_version"] == 1
    assert told.keys() >= names_after("**`whatif --json`**, `schema_version` 1. Top: ")
    (scenario,) = told["scenarios"]
    assert scenario.keys() >= names_after("A\nscenario: ")
    names = names_after("`predicted` have ")
    assert len(names) == 8
    assert told["measured"].keys() == scenario["predicted"].keys() >= names


def test_advice_keeps_its_keys(tmp_path):
    """The same for the advice, whose flags go into a launch script."""
    told = read_json(tmp_path, "tune", OFF)
    assert told["schema_version"] == 1
    assert told.keys() >= names_after("**`tune --json`**, `schema_version` 1. Top: ")

"""Start-up: the probed constructor and scheduler statement, and where the settings come from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pdtrace.delayer.rules import rules_for
from pdtrace.delayer.startup import (
    ENV_ENABLE,
    ENV_MAX_DELAY_PASSES,
    ENV_WATERMARK,
    Startup,
    check_constructor,
    check_preconditions,
    resolve_settings,
)
from pdtrace.errors import UsageError

PROBES = json.loads(
    (Path(__file__).parents[1] / "data" / "delayer" / "gate_probes.json").read_text()
)
CONSTRUCTOR = [
    (version, case, outcome)
    for version, probes in PROBES.items()
    for case, outcome in probes["constructor"].items()
]
STATEMENT = [
    (version, case, outcome)
    for version, probes in PROBES.items()
    for case, outcome in probes["scheduler_statement"].items()
    if case != "line"
]
OPTIONS = {
    "enable_dp_attention=False": {"enable_dp_attention": False},
    "disable_overlap_schedule": {"disable_overlap_schedule": True},
    "nccl_gather_env": {"uses_nccl_gather": True},
    "device_group=None": {"has_device_group": False},
    **{
        f"disaggregation_mode={m}": {"disaggregation_mode": m}
        for m in ("null", "prefill", "decode")
    },
}


@pytest.mark.parametrize(("version", "case", "outcome"), CONSTRUCTOR)
def test_constructor_objects_as_probed(version: str, case: str, outcome: dict) -> None:
    """The analysis may not promise a delayer that the engine refuses to build, nor the reverse."""
    options: dict = {}
    for part in case.split(","):
        options |= OPTIONS[part]
    message = check_constructor(rules_for(version), **options)
    assert (message is None) == outcome["ok"]
    assert message == outcome.get("message")


@pytest.mark.parametrize(("version", "case", "outcome"), STATEMENT)
def test_scheduler_statement_acts_as_probed(version: str, case: str, outcome: dict) -> None:
    """Each disaggregation mode gets the delayer, the log line or the crash of its release."""
    options = dict(part.split("=") for part in case.split(","))
    started = check_preconditions(
        rules_for(version),
        is_enabled=options["enable"] == "True",
        disaggregation_mode=options["mode"],
    )
    assert (started.outcome != "aborts") == outcome["ok"]
    assert (started.outcome == "runs") == outcome.get("constructed", False)
    said = [started.message] if started.outcome == "ignored" else []
    assert said == [text for _, text in outcome["log"]]
    if not outcome["ok"]:
        assert started.message == outcome["message"]


def test_a_prefill_engine_has_a_delayer_from_0_5_11_on() -> None:
    """The one fact that a user with PD disaggregation must know before anything is replayed."""
    for version, outcome in (("0.5.10.post1", "aborts"), ("0.5.11", "runs"), ("0.5.23", "runs")):
        assert check_preconditions(rules_for(version), disaggregation_mode="prefill").outcome == (
            outcome
        )
    assert check_preconditions(rules_for("0.5.9"), is_enabled=False) == Startup("off")


def test_unknown_mode_is_refused() -> None:
    """A misspelt mode must not pass for a unified engine."""
    with pytest.raises(UsageError, match="prefil"):
        check_preconditions(rules_for("0.5.13"), disaggregation_mode="prefil")


def test_flag_of_passes_is_void_in_the_first_releases() -> None:
    """In 0.5.8 and 0.5.9 the environment's own default of 30 passes beats the flag."""
    for version, passes in (("0.5.8.post1", 30), ("0.5.9", 30), ("0.5.10", 7), ("0.5.23", 7)):
        assert resolve_settings(rules_for(version), max_delay_passes=7).max_delay_passes == passes


def test_environment_beats_flags_unless_it_is_zero() -> None:
    """Deprecated variables still win, but a 0 in them counts as not given."""
    rules = rules_for("0.5.13")
    given = {ENV_ENABLE: "true", ENV_MAX_DELAY_PASSES: "5", ENV_WATERMARK: "0.25"}
    settings = resolve_settings(rules, token_usage_low_watermark=0.5, environment=given)
    assert (settings.is_enabled, settings.max_delay_passes) == (True, 5)
    assert settings.token_usage_low_watermark == 0.25
    zeros = {ENV_ENABLE: "0", ENV_MAX_DELAY_PASSES: "0", ENV_WATERMARK: "0"}
    settings = resolve_settings(
        rules, max_delay_passes=9, token_usage_low_watermark=0.0, environment=zeros
    )
    assert (settings.is_enabled, settings.max_delay_passes) == (False, 9)
    assert settings.token_usage_low_watermark == 0.0


def test_environment_must_hold_numbers() -> None:
    """A variable that is no number is reported, not read as a default."""
    with pytest.raises(UsageError, match="numbers"):
        resolve_settings(rules_for("0.5.13"), environment={ENV_MAX_DELAY_PASSES: "many"})

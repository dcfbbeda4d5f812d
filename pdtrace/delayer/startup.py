"""Whether an engine starts with the PrefillDelayer at all, and with which settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pdtrace.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pdtrace.delayer.rules import ReleaseRules

DisaggregationMode = Literal["null", "prefill", "decode"]
DISAGGREGATION_MODES: tuple[DisaggregationMode, ...] = ("null", "prefill", "decode")

NEEDS_DP_ATTENTION = "To use PrefillDelayer, enable_dp_attention must be enabled."
NEEDS_UNIFIED_MODE = "To use PrefillDelayer, disaggregation_mode must be null."
NEEDS_OVERLAP = "To use PrefillDelayer, disable_overlap_schedule must be False."
NEEDS_DEVICE_GROUP = "device_group is required when using NCCL for PrefillDelayer all-gather"
IGNORED_ON_DECODE = (
    "Ignoring --enable-prefill-delayer on decode engine "
    "(no prefill scheduling path; delayer would be a no-op)."
)

ENV_ENABLE = "SGLANG_SCHEDULER_DECREASE_PREFILL_IDLE"
ENV_MAX_DELAY_PASSES = "SGLANG_PREFILL_DELAYER_MAX_DELAY_PASSES"
ENV_WATERMARK = "SGLANG_PREFILL_DELAYER_TOKEN_USAGE_LOW_WATERMARK"
DEFAULT_MAX_DELAY_PASSES = 30


@dataclass(frozen=True, slots=True)
class Startup:
    """What becomes of the PrefillDelayer when a scheduler starts.

    Attributes:
        outcome: ``runs``; ``off``: not asked for; ``ignored``: asked for, logged, and not built;
            ``aborts``: the scheduler dies of an AssertionError.
        message: What the engine says to that, word for word; empty for ``runs`` and ``off``.
    """

    outcome: Literal["runs", "off", "ignored", "aborts"]
    message: str = ""


@dataclass(frozen=True, slots=True)
class DelayerSettings:
    """Settings that an engine works with after its environment had its say."""

    is_enabled: bool
    max_delay_passes: int
    token_usage_low_watermark: float | None


def check_mode(disaggregation_mode: str) -> None:
    """Raise a UsageError unless the mode is one that the engine knows."""
    if disaggregation_mode not in DISAGGREGATION_MODES:
        raise UsageError(
            f"disaggregation mode {disaggregation_mode!r} is none of "
            f"{', '.join(DISAGGREGATION_MODES)}"
        )


def check_constructor(
    rules: ReleaseRules,
    *,
    enable_dp_attention: bool = True,
    disaggregation_mode: str = "null",
    disable_overlap_schedule: bool = False,
    uses_nccl_gather: bool = False,
    has_device_group: bool = True,
) -> str | None:
    """What the delayer's constructor objects to, its checks in the order of the release.

    Args:
        rules: The release's rules.
        enable_dp_attention: Whether DP attention is on (A insists).
        disaggregation_mode: ``null``, ``prefill`` or ``decode`` (A and B insist on ``null``).
        disable_overlap_schedule: Whether overlap scheduling is off (every release objects).
        uses_nccl_gather: Whether ``SGLANG_NCCL_ALL_GATHER_IN_OVERLAP_SCHEDULER_SYNC_BATCH`` is on.
        has_device_group: Whether the caller hands in a device group (D to G need one for NCCL;
            the engine itself always does).

    Returns:
        The text of the AssertionError, or null if it has nothing to object to.

    Raises:
        UsageError: There is no such disaggregation mode.
    """
    check_mode(disaggregation_mode)
    is_nccl = uses_nccl_gather or disable_overlap_schedule
    if rules.needs_device_group and is_nccl and not has_device_group:
        return NEEDS_DEVICE_GROUP
    if rules.needs_dp_attention and not enable_dp_attention:
        return NEEDS_DP_ATTENTION
    if rules.needs_unified_mode and disaggregation_mode != "null":
        return NEEDS_UNIFIED_MODE
    if disable_overlap_schedule:
        return NEEDS_OVERLAP
    return None


def check_preconditions(
    rules: ReleaseRules,
    *,
    is_enabled: bool = True,
    enable_dp_attention: bool = True,
    disaggregation_mode: str = "null",
    disable_overlap_schedule: bool = False,
    uses_nccl_gather: bool = False,
    has_device_group: bool = True,
) -> Startup:
    """What a scheduler does about the PrefillDelayer when it starts.

    A decode engine with the delayer switched on dies up to 0.5.10 (A, B), and says that it ignores
    the flag from 0.5.11 on (C). A prefill engine can have a delayer from 0.5.11 on.

    Args:
        rules: The release's rules.
        is_enabled: Whether the delayer is switched on.
        enable_dp_attention: As for :func:`check_constructor`, like all that follow.
        disaggregation_mode: ``null``, ``prefill`` or ``decode``.
        disable_overlap_schedule: Whether overlap scheduling is off.
        uses_nccl_gather: Whether the gather is set to NCCL.
        has_device_group: Whether a device group is there.

    Returns:
        The outcome, with the engine's own words.

    Raises:
        UsageError: There is no such disaggregation mode.
    """
    check_mode(disaggregation_mode)
    if not is_enabled:
        return Startup("off")
    if disaggregation_mode == "decode" and not rules.needs_unified_mode:
        return Startup("ignored", IGNORED_ON_DECODE)
    message = check_constructor(
        rules,
        enable_dp_attention=enable_dp_attention,
        disaggregation_mode=disaggregation_mode,
        disable_overlap_schedule=disable_overlap_schedule,
        uses_nccl_gather=uses_nccl_gather,
        has_device_group=has_device_group,
    )
    return Startup("runs") if message is None else Startup("aborts", message)


def resolve_settings(
    rules: ReleaseRules,
    *,
    enable_prefill_delayer: bool = False,
    max_delay_passes: int = DEFAULT_MAX_DELAY_PASSES,
    token_usage_low_watermark: float | None = None,
    environment: Mapping[str, str] | None = None,
) -> DelayerSettings:
    """The settings that apply, from flags and environment.

    An environment value that is 0 or empty counts as not given, so a watermark of 0 can come from
    the flag only. In A the environment's number of passes has a default of its own, so the flag
    ``--prefill-delayer-max-delay-passes`` never takes effect.

    Args:
        rules: The release's rules.
        enable_prefill_delayer: The flag.
        max_delay_passes: The flag.
        token_usage_low_watermark: The flag.
        environment: Environment variables of the engine.

    Raises:
        UsageError: A variable does not hold a number.
    """
    given = environment or {}
    is_enabled = given.get(ENV_ENABLE, "").strip().lower() in ("1", "true", "yes", "y")
    try:
        passes = int(given.get(ENV_MAX_DELAY_PASSES) or 0)
        watermark = float(given.get(ENV_WATERMARK) or 0)
    except ValueError as error:
        raise UsageError(f"the environment of the engine does not hold numbers: {error}") from error
    if rules.ignores_flag_passes and not given.get(ENV_MAX_DELAY_PASSES):
        passes = DEFAULT_MAX_DELAY_PASSES
    return DelayerSettings(
        is_enabled=enable_prefill_delayer or is_enabled,
        max_delay_passes=passes or max_delay_passes,
        token_usage_low_watermark=watermark or token_usage_low_watermark,
    )

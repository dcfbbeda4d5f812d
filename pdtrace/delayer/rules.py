"""Which release of the engine negotiates how: the switches that tell the release groups apart.

The policy itself stands in :mod:`pdtrace.delayer.policy` once; a release is a set of switches in
it. ``docs/method.md`` has the same table in words.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from pdtrace.errors import UsageError


@dataclass(frozen=True, slots=True)
class ReleaseRules:
    """How the PrefillDelayer of one group of releases behaves.

    A group is the set of releases whose prefill delayer is the same code, or differs in form only.

    Attributes:
        group: ``A`` to ``H``, ``E2`` between ``E`` and ``F``.
        release: The release that was asked for.
        note: What was assumed to map the release to the group; empty where nothing was.
        has_slot_condition: B+: with all ranks prefillable, too few free slots still delay (and the
            first such delay of a process is skipped).
        has_queue_trigger: D+: so does a short waiting queue, until a deadline.
        has_watermark_in_all: D+: the watermark releases also when all ranks are prefillable.
        bounds_all: E2+: max_delay_passes bounds the delays with all ranks prefillable too.
        reports_release: E+: verdict and metrics carry the wait that a release ends. Before,
            metrics carry the wait that goes on after a refusal, and no release.
        has_sliding_watermark: F+: max_prefill_bs is the maximum of recent attempts, and finalize
            returns the size of the attempt. Before, it is the lifetime maximum of executed sizes.
        caps_by_max_requests: G+: prefill_max_requests, if set, caps the queue condition's target.
        gathers_deadline: H: the deadline is judged before the gather and exchanged. Before, each
            rank judges it by its own clock after the gather.
        counts_attn_cp: H: the gather has room for attention-CP ranks.
        asks_before_kv_checks: B to E: a rank says prefillable before it knows that the KV fits.
        mid_chunk_asks: E2+: a rank that only continues a chunk says prefillable (and runs anyway).
            Before, it says nothing, so it counts as not prefillable.
        needs_dp_attention: A: the constructor refuses to work without DP attention.
        needs_unified_mode: A, B: it refuses to work under PD disaggregation.
        needs_device_group: D to G: an NCCL gather needs a device group.
        ignores_flag_passes: A: the environment's default of 30 passes always beats the flag.
    """

    group: str
    release: str
    note: str = ""
    has_slot_condition: bool = False
    has_queue_trigger: bool = False
    has_watermark_in_all: bool = False
    bounds_all: bool = False
    reports_release: bool = False
    has_sliding_watermark: bool = False
    caps_by_max_requests: bool = False
    gathers_deadline: bool = False
    counts_attn_cp: bool = False
    asks_before_kv_checks: bool = False
    mid_chunk_asks: bool = False
    needs_dp_attention: bool = False
    needs_unified_mode: bool = False
    needs_device_group: bool = False
    ignores_flag_passes: bool = False

    @property
    def gathered_fields(self) -> tuple[str, ...]:
        """What a rank puts into the gather, in order."""
        fields: tuple[str, ...] = ("prefillable", "token_watermark_force_allow")
        if self.has_slot_condition:
            fields += ("running_batch", "max_prefill_bs")
        if self.has_queue_trigger:
            fields += ("waiting_queue_len",)
        if self.gathers_deadline:
            fields += ("queue_timeout_expired",)
        return fields


# Each group is the one before it, changed.
_A = ReleaseRules(
    "A", "0.5.8", needs_dp_attention=True, needs_unified_mode=True, ignores_flag_passes=True
)
_B = replace(
    _A,
    group="B",
    release="0.5.10",
    has_slot_condition=True,
    asks_before_kv_checks=True,
    needs_dp_attention=False,
    ignores_flag_passes=False,
)
_C = replace(_B, group="C", release="0.5.11", needs_unified_mode=False)
_D = replace(
    _C,
    group="D",
    release="0.5.12",
    has_queue_trigger=True,
    has_watermark_in_all=True,
    needs_device_group=True,
)
_E = replace(_D, group="E", release="0.5.14", reports_release=True)
_E2 = replace(
    _E,
    group="E2",
    release="0.5.17",
    bounds_all=True,
    asks_before_kv_checks=False,
    mid_chunk_asks=True,
)
_F = replace(_E2, group="F", release="0.5.18", has_sliding_watermark=True)
_G = replace(_F, group="G", release="0.5.19", caps_by_max_requests=True)
_H = replace(
    _G,
    group="H",
    release="0.5.22",
    gathers_deadline=True,
    counts_attn_cp=True,
    needs_device_group=False,
)

GROUPS = (_A, _B, _C, _D, _E, _E2, _F, _G, _H)
"""One entry a group, oldest first; ``release`` is its first."""

# Releases whose delayer was looked at. Those between and after are mapped with a note.
_LOOKED_AT = {
    (0, 5, n): rules
    for rules, patches in (
        (_A, (8, 9)),
        (_B, (10,)),
        (_C, (11,)),
        (_D, (12, 13)),
        (_E, (14, 16)),
        (_E2, (17,)),
        (_F, (18,)),
        (_G, (19, 20, 21)),
        (_H, (22, 23)),
    )
    for n in patches
}
_POSTS_LOOKED_AT = {((0, 5, 8), 1), ((0, 5, 10), 1)}
_NEWEST = max(_LOOKED_AT)

_RELEASE = re.compile(
    r"v?(?P<numbers>\d{1,9}(?:\.\d{1,9}){1,3})"
    r"(?:[._-]?(?P<pre>(?:a|b|c|rc|alpha|beta|preview|pre)[._-]?\d*))?"
    r"(?:(?:[._-]?post|-)(?P<post>\d{1,9}))?"
    r"(?P<dev>[._-]?dev\d*)?"
    r"(?:\+[a-z0-9._-]*)?",
    re.IGNORECASE | re.ASCII,
)


def rules_for(version: str) -> ReleaseRules:
    """The rules that a release of SGLang negotiates by.

    Releases whose code was looked at: 0.5.8 to 0.5.14 and 0.5.16 to 0.5.23, with 0.5.8.post1 and
    0.5.10.post1. Of those, 0.5.17 was read only; every other group has a recorded run that the
    policy reproduces. Any other release gets the rules of the newest one not after it, and a note.

    Args:
        version: A release as the engine prints it: ``0.5.13``, ``v0.5.8.post1``, ``0.5.24rc1``.

    Returns:
        The group's rules, with ``release`` as asked for, and ``note`` where something was assumed.

    Raises:
        UsageError: The text is no release number, or the release is before 0.5.8: those have no
            PrefillDelayer (0.5.7 has a predecessor that works by another rule).
    """
    text = version.strip()
    match = _RELEASE.fullmatch(text)
    if match is None:
        raise UsageError(f"{version!r} is not an SGLang release; expected one like 0.5.13")
    numbers = tuple(int(x) for x in match["numbers"].split("."))
    major, minor, patch = (*numbers, 0, 0)[:3]
    key = (major, minor, patch)
    if key < min(_LOOKED_AT):
        raise UsageError(
            f"SGLang {text} has no PrefillDelayer; the first release that has one is 0.5.8"
        )
    known = max(k for k in _LOOKED_AT if k <= key)
    rules = _LOOKED_AT[known]
    name = ".".join(map(str, known))
    is_known = key == known and len(numbers) <= 3
    if match["post"] is not None:
        is_known = is_known and (key, int(match["post"])) in _POSTS_LOOKED_AT
    notes = []
    if key > _NEWEST:
        notes.append(f"{text} is newer than any release known here; the rules of {name} are used")
    elif not is_known:
        notes.append(f"{text} was not looked at; the rules of {name} are used")
    if match["pre"] is not None or match["dev"] is not None:
        notes.append(f"{text} is a pre-release: it may still behave like the release before")
    if rules is _E2:
        notes.append("the rules of 0.5.17 were read, not compared with a recorded run")
    return replace(rules, release=text, note="; ".join(notes))

"""What one engine start says of itself, gathered line by line → ``EngineInfo``."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from pdtrace.run import DelayerInfo, EngineInfo
from pdtrace.sources.scheduler_log import catalogue as cat
from pdtrace.sources.scheduler_log import server_args as sa
from pdtrace.sources.scheduler_log.releases import ReleaseRange

MOST_DELAY_PASSES = 2**31 - 1  # a larger bound is as if not told; tables count passes in 32 bits
_SETTING = re.compile(r"(\w+)=(\S+?)(?=,? |,?$)")
_COMPARED = (
    "model_path", "tp_size", "dp_size", "attn_dp_size", "ep_size", "pp_size",
    "enable_dp_attention", "disaggregation_mode", "chunked_prefill_size", "max_running_requests",
    "disable_overlap_schedule", "enable_prefill_delayer", "prefill_delayer_max_delay_passes",
    "prefill_delayer_token_usage_low_watermark",
)  # fmt: skip


@dataclass
class EngineFacts:
    """Facts of one engine start.

    Attributes:
        settings: ``server_args`` as printed.
        sizes: The ``max_total_num_tokens=…`` line.
        delayer: The delayer's initialisation line.
        clues: Releases that fit what this start printed.
        num_prefill, num_decode: Batch lines.
        any_bits, all_bits: Bits that some, and that all, of its Prefill lines have.
        decode_bits: Bits that some Decode line has.
        has_label: Whether a Prefill line had a label.
        num_ms: Batch lines with milliseconds.
        max_dp_rank: Largest DP tag; −1 without one.
    """

    settings: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, str] = field(default_factory=dict)
    delayer: dict[str, str] = field(default_factory=dict)
    is_delayer_ignored: bool = False
    clues: ReleaseRange = field(default_factory=ReleaseRange)
    num_prefill: int = 0
    num_decode: int = 0
    any_bits: int = 0
    all_bits: int = -1
    decode_bits: int = 0
    has_label: bool = False
    num_ms: int = 0
    max_dp_rank: int = -1
    is_mixed: bool = False

    def read_note(self, code: int, message: str) -> None:
        """Take in a line of interest; ``code`` as in ``catalogue``."""
        self.clues.narrow_by_text(code, message.encode())
        if code == cat.SERVER_ARGS:
            self.settings = sa.parse_server_args(message.partition("=")[2])
        elif code == cat.POOL_SIZES:
            self.sizes = dict(_SETTING.findall(message))
        elif code == cat.DELAYER and "initialized" in message:
            self.delayer = dict(_SETTING.findall(message))
        elif code == cat.DELAYER_IGNORED:
            self.is_delayer_ignored = True

    def differences(self, other: EngineFacts) -> list[str]:
        """Settings that matter to the analysis and differ between two starts."""
        return [
            name
            for name in _COMPARED
            if self.settings and other.settings
            and self.settings.get(name) != other.settings.get(name)
        ]  # fmt: skip

    @property
    def role(self) -> str | None:
        """``prefill``, ``decode`` or ``null``, by the settings or else by what was printed."""
        mode = self.settings.get("disaggregation_mode")
        if mode in ("prefill", "decode", "null"):
            return mode
        if self.num_prefill:
            return "prefill" if self.any_bits & cat.PD_PREFILL else "null"
        if self.num_decode and self.decode_bits & cat.PD_DECODE:
            return "decode"
        return None

    def _lock_step(self, dp_size: int | None) -> bool | None:
        if self.is_mixed:
            return False
        has_attention = sa.read_bool(self.settings, "enable_dp_attention")
        if has_attention:
            return True
        if has_attention is False and dp_size is not None and dp_size > 1:
            return False
        return True if dp_size == 1 and has_attention is False else None

    def _delayer_info(self) -> DelayerInfo:
        if self.is_delayer_ignored or self.role == "decode":
            # a decode engine has no prefill scheduling; it ignores the flag
            return DelayerInfo(enabled=False)
        s, line = self.settings, self.delayer
        enabled = True if line else sa.read_bool(s, "enable_prefill_delayer")
        if not enabled:
            return DelayerInfo(enabled=enabled)
        # the environment may override the settings, so the delayer's own line goes first
        source = line or {
            "max_delay_passes": s.get("prefill_delayer_max_delay_passes", ""),
            "token_usage_low_watermark": s.get("prefill_delayer_token_usage_low_watermark", ""),
            "queue_min_ratio": s.get("prefill_delayer_queue_min_ratio", ""),
            "max_delay_ms": s.get("prefill_delayer_max_delay_ms", ""),
        }
        bound = sa.read_int(source, "max_delay_passes")
        return DelayerInfo(
            enabled=True,
            max_delay_passes=None if bound is None or bound > MOST_DELAY_PASSES else bound,
            token_usage_low_watermark=sa.read_float(source, "token_usage_low_watermark"),
            queue_min_ratio=sa.read_float(source, "queue_min_ratio"),
            max_delay_ms=sa.read_float(source, "max_delay_ms"),
        )

    def build_info(self, *, dp_size: int | None, release: str | None) -> EngineInfo:
        """Put the facts together.

        Args:
            dp_size: DP ranks as the user says, or None.
            release: The release that the input names, or None.
        """
        s = self.settings
        clues = self.clues
        if self.num_prefill:
            clues.narrow_by_prefill_lines(self.any_bits, self.all_bits, has_label=self.has_label)
        low, high = (release, release) if release else clues.bounds
        ranks, source = dp_size, "option"
        if ranks is None:
            ranks, source = sa.count_dp_ranks(s), "server_args"
        if ranks is None and self.max_dp_rank >= 0:
            ranks, source = self.max_dp_rank + 1, "tags"
        num_lines = self.num_prefill + self.num_decode
        after = bool(self.any_bits & (cat.GRAPH | cat.BIT["#pending-token"]))
        max_running = sa.read_int(self.sizes, "max_running_requests")
        chunk = sa.read_int(self.sizes, "chunked_prefill_size")
        if chunk is None:
            chunk = sa.read_int(s, "chunked_prefill_size")
        return EngineInfo(
            release_min=low,
            release_max=high,
            dp_size=ranks,
            dp_size_source=None if ranks is None else source,
            tp_size=sa.read_int(s, "tp_size"),
            ep_size=sa.read_int(s, "ep_size"),
            pp_size=sa.read_int(s, "pp_size"),
            role=self.role,
            enable_dp_attention=sa.read_bool(s, "enable_dp_attention"),
            lock_step=self._lock_step(ranks),
            chunked_prefill_size=chunk if chunk is not None and chunk > 0 else None,
            max_running_requests=(
                sa.read_int(s, "max_running_requests") if max_running is None else max_running
            ),
            max_total_num_tokens=sa.read_int(self.sizes, "max_total_num_tokens"),
            disable_overlap_schedule=sa.read_bool(s, "disable_overlap_schedule"),
            model_path=sa.read_text(s, "model_path"),
            has_ms=self.num_ms * 2 > num_lines if num_lines else None,
            prints_after_result=after if self.num_prefill else None,
            delayer=self._delayer_info(),
            server_args=dict(s),
        )

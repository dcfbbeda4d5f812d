"""Which releases a log can be from: each thing seen in it narrows the range.

The engine does not print its release, but its formats changed often enough to tell it to within a
few. Source: the formats of the examined releases, 0.4.6 to 0.5.23.
"""

from __future__ import annotations

from dataclasses import dataclass

from pdtrace.sources.scheduler_log import catalogue as cat

RELEASES = (
    "0.4.6", "0.4.9", "0.5.2", "0.5.3", "0.5.4", "0.5.5", "0.5.6", "0.5.7", "0.5.8", "0.5.9",
    "0.5.10", "0.5.11", "0.5.12", "0.5.13", "0.5.14", "0.5.15", "0.5.16", "0.5.17", "0.5.18",
    "0.5.19", "0.5.20", "0.5.21", "0.5.22", "0.5.23",
)  # fmt: skip
_INDEX = {r: i for i, r in enumerate(RELEASES)}


def parse_release(text: str) -> tuple[int, ...]:
    """``0.5.13.post1`` → (0, 5, 13), for comparing."""
    parts = []
    for part in text.split(".")[:3]:
        digits = "".join(c for c in part if c.isdigit())
        if not digits:
            break
        parts.append(int(digits))
    return tuple(parts)


@dataclass
class ReleaseRange:
    """The releases that fit what was seen; empty (``is_contradictory``) if nothing fits."""

    low: int = 0
    high: int = len(RELEASES) - 1
    num_clues: int = 0

    def narrow(self, low: str | None = None, high: str | None = None) -> None:
        """Note that something of releases ``low`` … ``high`` was seen."""
        self.num_clues += 1
        if low is not None:
            self.low = max(self.low, _INDEX[low])
        if high is not None:
            self.high = min(self.high, _INDEX[high])

    @property
    def is_contradictory(self) -> bool:
        """Whether no release fits."""
        return self.low > self.high

    @property
    def bounds(self) -> tuple[str | None, str | None]:
        """First and last release that fit; None, None without clues or if none fits."""
        if not self.num_clues or self.is_contradictory:
            return None, None
        return RELEASES[self.low], RELEASES[self.high]

    def narrow_by_prefill_lines(self, any_bits: int, all_bits: int, *, has_label: bool) -> None:
        """Narrow by the Prefill lines of one engine.

        Args:
            any_bits: Bits (``catalogue.BIT`` …) that some line has.
            all_bits: Bits that every line has.
            has_label: Whether a line has the iteration label.
        """
        bit = cat.BIT
        if has_label:
            self.narrow("0.5.4")
        if any_bits & cat.HAS_MS:
            self.narrow("0.5.6")
        is_pd = bool(any_bits & cat.PD_PREFILL)
        has_throughput = bool(any_bits & cat.THROUGHPUT)
        has_graph = bool(all_bits & cat.GRAPH) or bool(any_bits & cat.GRAPH)
        if any_bits & cat.HAS_DOT:
            self._narrow_old(any_bits, is_pd=is_pd, has_throughput=has_throughput)
            return
        if any_bits & cat.HAS_TRAILING_COMMA:
            self.narrow("0.5.4", "0.5.8")
        elif any_bits & cat.THROUGHPUT_BEFORE_GRAPH and not is_pd:
            self.narrow("0.5.9", "0.5.9")
        elif any_bits & bit["#pending-token"]:
            self.narrow("0.5.11")
            if any_bits & bit["#prealloc-req"]:
                self.narrow("0.5.11", "0.5.11")
            if any_bits & bit["#bootstrap-req"]:
                is_new = any_bits & bit["#optimistic-req"]
                self.narrow("0.5.16" if is_new else "0.5.12", None if is_new else "0.5.15")
        elif has_graph:
            self.narrow("0.5.10", "0.5.10")
        else:
            self.narrow("0.5.4")
        if any_bits & (bit["#replay-token"] | bit["fwd+idle occupancy"]):
            self.narrow("0.5.21")
        elif any_bits & bit["fwd occupancy"]:
            self.narrow("0.5.11", "0.5.20")

    def _narrow_old(self, any_bits: int, *, is_pd: bool, has_throughput: bool) -> None:
        self.narrow(None, "0.5.3")
        if any_bits & cat.BIT["#prealloc-req"]:
            self.narrow("0.5.3", "0.5.3")
        elif is_pd and has_throughput:
            self.narrow("0.4.9", "0.5.2")
        elif is_pd or not any_bits & cat.HAS_TRAILING_COMMA:
            self.narrow("0.4.6", "0.4.6")
        else:
            self.narrow("0.4.9", "0.5.3")

    def narrow_by_text(self, code: int, text: bytes) -> None:
        """Narrow by another line; ``code`` as in ``catalogue``, ``text`` its message."""
        if code == cat.SERVER_ARGS:
            if text.startswith(b"server_args={"):
                self.narrow("0.5.22" if b"'attn_dp_size'" in text else "0.5.19")
                if b"'attn_dp_size'" not in text and text.rstrip().endswith(b"}"):
                    self.narrow(None, "0.5.21")
            else:
                self.narrow(None, "0.5.18")
                if b"enable_prefill_delayer=" in text:
                    self.narrow("0.5.8")
                if b"prefill_delayer_queue_min_ratio=" in text:
                    self.narrow("0.5.12")
        elif code == cat.TIME_STATS:
            if text.startswith(b"ReqTimeStats("):
                self.narrow("0.5.12")
                if b", attempts=" in text:
                    self.narrow("0.5.16")
                elif b"#retries=" in text:
                    self.narrow(None, "0.5.15")
            else:
                self.narrow(None, "0.5.11")
        elif code == cat.DELAYER and b"initialized" in text:
            if b"queue_min_ratio=" in text:
                self.narrow("0.5.12")
            else:
                self.narrow("0.5.8", "0.5.11")
        elif code == cat.WATCHDOG:
            is_old = text.startswith(b"Watchdog")
            self.narrow(None if is_old else "0.5.7", "0.5.6" if is_old else None)
        elif code == cat.FPM_BOUND:
            is_last = b"device_timer" not in text
            self.narrow("0.5.23" if is_last else "0.5.12", None if is_last else "0.5.22")
        elif code in (cat.WARMUP_START, cat.WARMUP_END):
            if b" prefill warmup" in text:
                self.narrow(None, "0.4.9")
            elif b"End of prefill disaggregation" in text:
                self.narrow("0.5.2", "0.5.10")
            elif b"request completed" in text:
                self.narrow("0.5.11", "0.5.15")
            elif b"requests completed" in text:
                self.narrow("0.5.16")

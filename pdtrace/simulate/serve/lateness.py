"""How late something was, over and over, in bounded memory."""

from __future__ import annotations

STEP_S = 1e-4
NUM_STEPS = 20_000  # up to two seconds; beyond that only the largest is known


class Lateness:
    """Counts of lateness in steps of a tenth of a millisecond."""

    def __init__(self) -> None:
        self._counts = [0] * NUM_STEPS
        self.num = 0
        self.max_s = 0.0

    def note(self, seconds: float) -> None:
        """Count one; early is not late."""
        late = max(seconds, 0.0)
        self._counts[min(int(late / STEP_S), NUM_STEPS - 1)] += 1
        self.num += 1
        self.max_s = max(self.max_s, late)

    def find_quantile(self, share: float) -> float | None:
        """The lateness that this share of them did not exceed; None: there was none."""
        if not self.num:
            return None
        passed = 0
        for step, count in enumerate(self._counts):
            passed += count
            if passed >= share * self.num:
                return min((step + 1) * STEP_S, self.max_s)
        return self.max_s

    def describe(self) -> dict[str, float | int | None]:
        """For a file: how many, median, 99th percentile, largest."""
        p50, p99 = self.find_quantile(0.5), self.find_quantile(0.99)
        return {
            "num": self.num,
            "p50_s": None if p50 is None else round(p50, 6),
            "p99_s": None if p99 is None else round(p99, 6),
            "max_s": round(self.max_s, 6) if self.num else None,
        }

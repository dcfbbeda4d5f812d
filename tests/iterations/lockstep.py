"""A small lock-step engine in the tests' own words: an obvious source of lines with known truth."""

import numpy as np


def run_engine(
    num_ranks: int, num_passes: int, seed: int, *, blocking: bool = True, load: float = 0.6
) -> list[tuple[float, int, float, int]]:
    """Lines of a prefill engine: (t, rank, tokens, iteration), sorted by time.

    With ``blocking`` launches a rank reports the pass before only once its own next launch
    returned: when the device is done for real tokens, after 35 ms for an idle batch. Without, every
    pass is reported at completion. ``load`` is the chance that work for the next pass is waiting.
    """
    rng = np.random.default_rng(seed)
    out: list[tuple[float, int, float, int]] = []
    start = 0.0
    before: list[tuple[int, float]] = []
    for n in range(num_passes):
        k = 1 + rng.binomial(num_ranks - 1, 0.3)
        ranks = np.sort(rng.choice(num_ranks, size=k, replace=False)).tolist()
        tokens = rng.integers(500, 8192, k)
        pass_s = (0.06 + 1e-5 * tokens.max()) * rng.normal(1, 0.03)
        done = start + pass_s
        for r, size in before:
            idle = start + rng.normal(0.035, 0.004)
            at = done + abs(rng.normal(0, 0.001)) if r in ranks else idle
            out.append((at, r, size, n - 1))
        batch = list(zip(ranks, tokens.astype(float).tolist(), strict=True))
        start = done + 0.006
        if rng.random() < load and blocking and n + 1 < num_passes:
            before = batch
        else:
            before = []
            out += [(done + 0.005 + abs(rng.normal(0, 0.0005)), r, x, n) for r, x in batch]
            if rng.random() >= load:
                start += 0.004 + rng.exponential(0.15)
    return sorted(out)

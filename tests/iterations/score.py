"""Scores rebuilt iterations against the truth of a recording."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pdtrace.run import Run

CLASS_BOUNDS = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
"""Confidence classes; the last takes in 1 itself."""


@dataclass(frozen=True)
class Score:
    """How well the iterations of one recording were rebuilt.

    Attributes:
        exact: Share of the true iterations that were rebuilt with exactly their lines.
        confidence: Of each rebuilt iteration.
        is_right: Whether it is a true one.
        warnings: What the run says of itself.
    """

    exact: float
    confidence: np.ndarray
    is_right: np.ndarray
    warnings: tuple[str, ...]


def score_run(run: Run, truth: Mapping[str, Any], old_line: Mapping[int, int]) -> Score:
    """Compare a run with its truth: an iteration is right if it has the same (rank, line) pairs.

    Args:
        run: The run, read from a stripped log.
        truth: Content of ``truth.json``.
        old_line: Line of the stripped log → line of the log that the truth speaks of.
    """
    true = {
        frozenset((int(rank), line["line"]) for rank, line in it["ranks"].items())
        for it in truth["iterations"]
    }
    groups: dict[int, set[tuple[int, int]]] = {}
    for iteration, rank, line in run.events.select("iteration", "dp_rank", "line").iter_rows():
        if iteration is not None:
            groups.setdefault(iteration, set()).add((rank, old_line[line]))
    sure = dict(run.iterations.select("iteration", "confidence").iter_rows())
    right = {number: frozenset(lines) in true for number, lines in groups.items()}
    return Score(
        exact=sum(right.values()) / len(true),
        confidence=np.array([sure[number] for number in right]),
        is_right=np.array(list(right.values())),
        warnings=run.warnings,
    )


def measure_calibration_error(confidence: np.ndarray, is_right: np.ndarray) -> float:
    """Mean distance between confidence and share right over classes, weighted by their size."""
    number = np.clip(np.digitize(confidence, CLASS_BOUNDS) - 1, 0, len(CLASS_BOUNDS) - 2)
    total = 0.0
    for which in np.unique(number):
        inside = number == which
        total += inside.sum() * abs(confidence[inside].mean() - is_right[inside].mean())
    return float(total / len(confidence))

"""What several tables say together: where a request's time went, why ranks idled, who agrees.

:func:`explain_run` puts the results into a run, where metrics, reports and figures find them as
tables: ``Run.stages``, ``Run.episodes`` and the column ``cause`` of ``rank_passes``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl

    from pdtrace.run import Run


def explain_run(run: Run, joined: pl.DataFrame) -> Run:
    """Add the stages of requests, the delay episodes and the causes of idle passes to a run.

    Args:
        run: The run with its iterations rebuilt.
        joined: Table ``requests`` with one row for each request, over all sources.

    Returns:
        The run; the same where no request is known, so that a log alone costs nothing.
    """
    if joined.is_empty():
        return run
    from pdtrace.joined.causes import ExplainedParts, find_causes  # noqa: PLC0415 (heavy, as above)
    from pdtrace.joined.passes import (  # noqa: PLC0415 (likewise)
        link_requests,
        read_passes,
        settle_iterations,
    )
    from pdtrace.joined.stages import build_stages  # noqa: PLC0415 (likewise)
    from pdtrace.joined.waits import find_waits  # noqa: PLC0415 (likewise)

    passes = read_passes(run)
    links = link_requests(joined, passes)
    settled = settle_iterations(joined, passes, links)
    waits = find_waits(joined, passes, links, settled, run)
    stages = build_stages(joined, passes, links, settled, waits, run.engine.delayer.enabled)
    causes = find_causes(joined, passes, links, settled, run)
    return replace(
        run, stages=stages, episodes=waits.episodes, parts=ExplainedParts(run.parts, causes)
    )

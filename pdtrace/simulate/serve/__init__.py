"""The simulated engine behind real HTTP, in real time.

Its time line is reckoned, not waited for: a request gets its arrival from the moment its post came
in, every turn of the schedulers has the moment at which it happens, and the loop only waits until
that moment has come before it takes the turn. So a machine that is busy makes answers a little
late, never the schedule wrong, and nothing drifts. How late answers were is counted and told.

:mod:`~pdtrace.simulate.serve.frontend` is what lies before the ranks,
:mod:`~pdtrace.simulate.serve.scheduler` keeps the time, :mod:`~pdtrace.simulate.serve.recorder`
writes, :mod:`~pdtrace.simulate.serve.http_server` answers.
"""

from __future__ import annotations

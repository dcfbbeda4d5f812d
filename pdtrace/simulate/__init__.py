"""A lock-step engine that writes what a real one writes, together with its truth.

:mod:`~pdtrace.simulate.engine` runs requests pass by pass; the other modules put what it did into
the files of a run directory. Nothing here measures anything: it makes inputs whose right answer is
known, and says in every file that they are made.
"""

from __future__ import annotations

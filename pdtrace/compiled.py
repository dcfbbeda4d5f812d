"""How kernels are compiled: cached beside their source, without the GIL.

A kernel is cached by the date of its own module: after an edit of a kernel that others call, touch
the modules of those.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, cast

import numba

if TYPE_CHECKING:
    from collections.abc import Callable

F = TypeVar("F", bound="Callable[..., Any]")


def compiled(function: F) -> F:
    """Compile a function at its first call; later processes load it from the cache."""
    return cast("F", numba.njit(cache=True, nogil=True)(function))

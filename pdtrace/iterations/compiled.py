"""How the kernels of this folder are compiled: cached beside the source, without the GIL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, cast

import numba

if TYPE_CHECKING:
    from collections.abc import Callable

F = TypeVar("F", bound="Callable[..., Any]")


def compiled(function: F) -> F:
    """Compile a function at its first call; later processes load it from the cache."""
    return cast("F", numba.njit(cache=True, nogil=True)(function))

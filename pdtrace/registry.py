"""Shelf: named implementations, loaded from their folder and from entry points when first asked."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Generic, TypeVar

from pdtrace.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

T = TypeVar("T")


def describe_unknown(noun: str, name: str, known: Iterable[str]) -> str:
    """One line that answers an unknown name: those there are, and which was probably meant."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1)
    guess = f"; did you mean {near[0]!r}?" if near else ""
    return f"unknown {noun} {name!r}; known: {', '.join(names) or 'none'}{guess}"


class Shelf(Generic[T]):
    """Implementations of one kind, by name.

    A module that stands in ``package`` is imported when the shelf is first read, and puts what it
    offers on the shelf with :meth:`register`; so a new implementation is a new file. After those,
    the entry points of ``group`` that other distributions declare are loaded the same way.

    Args:
        package: Dotted name of the folder, for instance ``pdtrace.sources``.
        group: Entry-point group; the folder's name if not given.
        noun: What one of them is called in messages.
    """

    def __init__(self, package: str, *, group: str | None = None, noun: str = "name") -> None:
        self.package = package
        self.group = group or package
        self.noun = noun
        self._items: dict[str, T] = {}
        self._is_loaded = False

    def register(self, name: str, item: T) -> T:
        """Put an implementation on the shelf; the same name again replaces it."""
        self._items[name] = item
        return item

    def _load(self) -> dict[str, T]:
        if not self._is_loaded:
            self._is_loaded = True
            folder = importlib.import_module(self.package)
            for module in sorted(m.name for m in pkgutil.iter_modules(folder.__path__)):
                importlib.import_module(f"{self.package}.{module}")
            for point in entry_points(group=self.group):
                point.load()
        return self._items

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._load())

    def __contains__(self, name: object) -> bool:
        return name in self._load()

    def __iter__(self) -> Iterator[T]:
        return iter(list(self._load().values()))

    def __getitem__(self, name: str) -> T:
        """The implementation of that name.

        Raises:
            UsageError: There is none; the message lists those there are.
        """
        items = self._load()
        if name not in items:
            raise UsageError(describe_unknown(self.noun, name, sorted(items)))
        return items[name]

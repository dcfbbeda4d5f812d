"""The import law: rooms import downward only, and heavy libraries stay in their rooms."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "pdtrace"

# From the ground up. Rooms within one inner tuple stand behind "|": they meet through tables only.
FLOORS: tuple[tuple[tuple[str, ...], ...], ...] = (
    (("errors",), ("compiled",)),
    (("schema",), ("registry",), ("wording",), ("untrusted",)),
    (("run", "saved_run"),),
    (
        ("sources",),
        ("iterations",),
        ("metrics",),
        ("joined",),
        ("delayer",),
        ("collect",),
    ),
    (("loading",), ("compare",), ("simulate",)),  # simulate runs the delayer's policy
    (("figures",), ("client",)),
    (("pages", "exports", "check"),),
    (("commands", "reading", "pytest_plugin", "__main__", "__init__"),),
)
PLACES = {
    room: (level, wing)
    for level, wings in enumerate(FLOORS)
    for wing, rooms in enumerate(wings)
    for room in rooms
}
# Top-level names of third parties, and the paths below pdtrace/ that may import them.
ONLY_IN = {
    "plotly": ("figures/", "pages/"),
    "opentelemetry": ("sources/otel", "exports/otlp", "collect/", "simulate/serve/"),
    "pandas": ("exports/", "commands/"),
}
MODULES = sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    """Path relative to the package, with slashes."""
    return path.relative_to(PACKAGE).as_posix()


def room_of(path: Path) -> str:
    """The room that a module stands in: its first folder, or itself."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(path: Path) -> list[tuple[int, str]]:
    """Line and dotted name of every import, those inside functions and for types included."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute here"
            base = node.module or ""
            if base == "pdtrace":
                found += [(node.lineno, f"pdtrace.{alias.name}") for alias in node.names]
            else:
                found.append((node.lineno, base))
    return found


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_rooms_import_downward_only(path: Path) -> None:
    """A room that reached up or sideways could not be changed, or tested, on its own."""
    room = room_of(path)
    assert room in PLACES, f"{room}: a new room; give it a floor here and in the architecture page"
    level, wing = PLACES[room]
    for line, name in imports_of(path):
        parts = name.split(".")
        if parts[0] != "pdtrace" or len(parts) == 1:
            continue
        target = parts[1] if parts[1] in PLACES else room
        if target == room:
            continue
        at, beside = PLACES[target]
        allowed = at < level or (at == level and beside == wing)
        assert allowed, f"{path}:{line}: {room} may not import {name}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_heavy_libraries_stay_in_their_rooms(path: Path) -> None:
    """A library imported outside its room would make everyone pay for it."""
    for line, name in imports_of(path):
        places = ONLY_IN.get(name.split(".")[0])
        if places is not None:
            assert name_of(path).startswith(places), f"{path}:{line}: {name} is not allowed here"


def test_no_module_is_a_drawer_for_anything() -> None:
    """Modules are named after what they hold, never utils, helpers or common."""
    bad = {"utils", "util", "helpers", "helper", "common", "misc"}
    assert not [p for p in MODULES if p.stem in bad]

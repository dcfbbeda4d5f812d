"""The shelf of named implementations."""

from __future__ import annotations

import sys

import pytest

from pdtrace.errors import UsageError
from pdtrace.registry import Shelf


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A shelf over a folder with one module that registers itself."""
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "__init__.py").write_text(
        "from pdtrace.registry import Shelf\nSHELF = Shelf('shop', noun='ware')\n"
    )
    (folder / "apple.py").write_text("from shop import SHELF\nSHELF.register('apple', 1)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import shop

    yield shop.SHELF
    for name in [m for m in sys.modules if m.partition(".")[0] == "shop"]:
        del sys.modules[name]


def test_modules_of_the_folder_are_loaded(shelf):
    """A file in the folder is enough to be found."""
    assert shelf["apple"] == 1
    assert "apple" in shelf


def test_unknown_name_lists_the_known(shelf):
    """A wrong name is a usage error that names the right ones."""
    with pytest.raises(UsageError, match="unknown ware 'pear'; known: apple"):
        shelf["pear"]


def test_nothing_is_loaded_before_it_is_asked_for():
    """Making a shelf imports nothing."""
    Shelf[int]("a_package_that_does_not_exist")

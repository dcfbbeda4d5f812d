"""Numbers as shown: no false zero, no false hundred, no unit that overflows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdtrace.exports.untrusted import show_in_markdown
from pdtrace.untrusted import show
from pdtrace.wording import percent, plural, seconds, seconds_within, significant


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0, "0 %"),
        (0.0001, "< 1 %"),
        (0.125, "13 %"),
        (0.5, "50 %"),
        (0.9999, "> 99 %"),
        (1, "100 %"),
        (None, "–"),
    ],
)
def test_percent(share: float | None, text: str) -> None:
    """0 % and 100 % appear only where it is exactly that."""
    assert percent(share) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 s"), (0.00025, "250 µs"), (0.0009996, "1.0 ms"), (0.0125, "12.5 ms"),
        (0.09996, "100 ms"), (0.9996, "1.00 s"), (9.996, "10.0 s"), (61.04, "61.0 s"),
        (12345, "12,345 s"), (None, "–"),
    ],
)  # fmt: skip
def test_seconds(value: float | None, text: str) -> None:
    """A span is shown in the unit that suits it, also where rounding crosses into the next."""
    assert seconds(value) == text


@given(st.floats(1e-6, 1e6))
def test_seconds_are_never_a_false_zero(value: float) -> None:
    """A span that is not zero does not read as zero."""
    assert float(seconds(value).split()[0].replace(",", "")) > 0


def test_small_numbers_and_plurals() -> None:
    """Small numbers keep their digits; nouns agree with their counts."""
    assert significant(0.00123) == "0.00123"
    assert significant(12345.6) == "12,346"
    assert plural(1, "rank pass") == "1 rank pass"
    assert plural(1200, "rank pass") == "1,200 rank passes"


@given(st.text())
def test_shown_text_is_printable(text: str) -> None:
    """Whatever a name holds, what is shown cannot move a cursor or reorder a line."""
    assert show(text).isprintable()
    assert "<" not in show_in_markdown(text)


@pytest.mark.parametrize(
    ("value", "half", "text"),
    [
        (0.2814, 0.033, "281 ± 33 ms"),
        (0.0041, 0.0123, "4.1 ± 12.3 ms"),
        (25.21, 57.04, "25.2 ± 57.0 s"),
    ],
)
def test_a_span_and_its_interval_share_a_unit(value: float, half: float, text: str) -> None:
    """Two units in one cell would have to be converted in the reader's head."""
    assert seconds_within(value, half) == text

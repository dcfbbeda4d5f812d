"""Numbers as people read them; see :mod:`pdtrace.wording`."""

from pdtrace.wording import UNKNOWN, number, percent, plural, seconds, significant, whole

__all__ = ["UNKNOWN", "number", "percent", "plural", "seconds", "significant", "whole"]

"""Files of a run directory that are recognised, but are no recordings themselves."""

from __future__ import annotations

import re
import tomllib

from pdtrace.sources.formats import FORMATS, SourceFormat

MOST_TOML = 1 << 13  # enough to know a description by; a parser's time grows faster than its text
# A result that was written beside its recording repeats words of both kinds.
_RESULT = re.compile(rb'\s*\{\s*"(?:schema|baseline)_version"')


def _is_object(head: bytes) -> bool:
    return head.lstrip()[:1] == b"{" and _RESULT.match(head) is None


def _is_server_info(head: bytes) -> bool:
    text = head.lstrip()
    return _is_object(text) and b'"model_path"' in text[:4000] and b'{"log"' not in text[:7]


def _is_truth(head: bytes) -> bool:
    return _is_object(head) and b'"num_iterations"' in head.lstrip()[:2000]


def _is_toml(head: bytes) -> bool:
    try:
        text = head[:MOST_TOML].rpartition(b"\n")[0].decode()
        return bool(tomllib.loads(text))
    except (ValueError, RecursionError):
        return False


for _order, (_name, _title, _sniff) in enumerate(
    (
        ("truth", "the truth of a run", _is_truth),
        ("server_info", "the engine's server_info", _is_server_info),
        ("run_toml", "a description of a run", _is_toml),
    )
):
    FORMATS.register(_name, SourceFormat(_name, _title, _sniff, order=80 + _order))

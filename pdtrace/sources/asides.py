"""Files of a run directory that are recognised, but are no recordings themselves."""

from __future__ import annotations

import tomllib

from pdtrace.sources.formats import FORMATS, SourceFormat


def _is_server_info(head: bytes) -> bool:
    text = head.lstrip()
    return text[:1] == b"{" and b'"model_path"' in text[:4000] and b'{"log"' not in text[:7]


def _is_truth(head: bytes) -> bool:
    text = head.lstrip()
    return text[:1] == b"{" and b'"num_iterations"' in text[:2000]


def _is_toml(head: bytes) -> bool:
    try:
        text = head.rpartition(b"\n")[0].decode()
        return bool(tomllib.loads(text))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError):
        return False


for _order, (_name, _title, _sniff) in enumerate(
    (
        ("truth", "the truth of a run", _is_truth),
        ("server_info", "the engine's server_info", _is_server_info),
        ("run_toml", "a description of a run", _is_toml),
    )
):
    FORMATS.register(_name, SourceFormat(_name, _title, _sniff, order=80 + _order))

"""Requests as the engine's ``/generate`` takes them, by release."""

from __future__ import annotations

import json
import re
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pdtrace.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pdtrace.client.arrivals import Request
    from pdtrace.client.settings import Peer

Release = tuple[int, int, int]

_RELEASE = re.compile(r"v?(\d{1,4})\.(\d{1,4})\.(\d{1,4})(?!\d)", re.ASCII)
_ROOM_BITS = 40


def parse_release(text: str) -> Release | None:
    """The numbers a version begins with (``0.5.10.post1`` is 0.5.10); None: it has none."""
    match = _RELEASE.match(text)
    return None if match is None else (int(match[1]), int(match[2]), int(match[3]))


def rank_fields(release: Release | None) -> tuple[str, ...]:
    """Names of the body's fields that choose the DP rank.

    ``data_parallel_rank`` came with 0.4.9; 0.5.10 replaced it by ``routed_dp_rank`` (and 0.5.15 to
    0.5.17 ignore the old name). Older releases have none: there the bootstrap room decides, as it
    does in all of them unless the engine was told to balance otherwise.

    Args:
        release: None: not known, so every name is sent; releases ignore those they do not know.
    """
    if release is None:
        return ("data_parallel_rank", "routed_dp_rank")
    if release >= (0, 5, 10):
        return ("routed_dp_rank",)
    return ("data_parallel_rank",) if release >= (0, 4, 9) else ()


class Rooms:
    """Bootstrap rooms: never used before, and routed to the rank that is asked for.

    The controller takes a room modulo the number of ranks for the rank.

    Args:
        num_ranks: DP ranks of the engine.
    """

    def __init__(self, num_ranks: int) -> None:
        self._num_ranks = num_ranks
        # Fresh in every run: an engine may still hold rooms of an earlier one.
        self._next = secrets.randbits(_ROOM_BITS)

    def take(self, rank: int | None) -> int:
        """The room of another request; None: any rank."""
        self._next += 1
        place = secrets.randbelow(self._num_ranks) if rank is None else rank
        return self._next * self._num_ranks + place


@dataclass(frozen=True)
class BodyMaker:
    """Makes the bytes that are sent.

    Attributes:
        release: Of the engine; None: not known.
        peer: Who takes the KV cache.
        rooms: Where it is handed over.
        output_len: Tokens to generate.
    """

    release: Release | None
    peer: Peer
    rooms: Rooms
    output_len: int

    def build(
        self, requests: Sequence[Request], prompts: Sequence[list[int] | str]
    ) -> tuple[bytes, bytes]:
        """The body of one post, and that for a decode engine.

        Args:
            requests: One, or several that are sent together.
            prompts: Their input ids, or texts; all of one kind.

        Returns:
            The two bodies. The second has the same rooms, by which a decode engine finds the
            prefill rank, and no rank: it would be taken for one of its own.

        Raises:
            UsageError: Several requests of one post are for chosen ranks, and the rank cannot be
                chosen for each of them.
        """
        body: dict[str, Any] = {
            "text" if isinstance(prompts[0], str) else "input_ids": list(prompts),
            "rid": [r.rid for r in requests],
        }
        if self.peer.host is not None:
            body["bootstrap_host"] = [self.peer.host] * len(requests)
            body["bootstrap_port"] = [self.peer.port] * len(requests)
            body["bootstrap_room"] = [self.rooms.take(r.rank) for r in requests]
        if len(requests) == 1:
            body = {name: values[0] for name, values in body.items()}
        body["sampling_params"] = {
            "temperature": 0,
            "max_new_tokens": self.output_len,
            "ignore_eos": True,
        }
        # The rank is one number, even where a post holds several prompts.
        ranks = {r.rank for r in requests}
        rank = ranks.pop() if len(ranks) == 1 else None
        if ranks and self.peer.host is None:
            raise UsageError(
                "the prompts of one post can only go to different ranks by their bootstrap rooms,"
                " which --bootstrap-host none leaves out; say --route rank N or balancer"
            )
        text = json.dumps(body, separators=(",", ":"))
        if rank is None:
            return text.encode(), text.encode()
        chosen = json.dumps(dict.fromkeys(rank_fields(self.release), rank), separators=(",", ":"))
        first = text if chosen == "{}" else f"{text[:-1]},{chosen[1:]}"
        return first.encode(), text.encode()

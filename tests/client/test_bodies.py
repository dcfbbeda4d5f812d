"""Request bodies, release by release."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdtrace.client.arrivals import Request
from pdtrace.client.bodies import BodyMaker, Rooms, parse_release
from pdtrace.client.settings import FAKE_HOST, Peer
from pdtrace.errors import UsageError


def one(rank: int | None, rid: str = "batch0-0-0") -> Request:
    """A request for a rank."""
    return Request(rid, "batch0", 3, rank, 0.0, 0)


def body_of(version: str | None, *ranks: int | None, peer: Peer | None = None) -> dict:
    """What would be posted."""
    release = None if version is None else parse_release(version)
    maker = BodyMaker(release, peer or Peer(), Rooms(4), 1)
    requests = [one(r, f"batch0-{k}-{k}") for k, r in enumerate(ranks)]
    body, for_decode = (
        json.loads(text) for text in maker.build(requests, [[7, 8, 9]] * len(ranks))
    )
    ranks_named = {"data_parallel_rank", "routed_dp_rank"}
    assert for_decode == {k: v for k, v in body.items() if k not in ranks_named}
    return body


@pytest.mark.parametrize(
    ("version", "fields"),
    [
        ("0.4.6.post5", set()),
        ("0.4.9.post6", {"data_parallel_rank"}),
        ("0.5.2", {"data_parallel_rank"}),
        ("0.5.9", {"data_parallel_rank"}),
        ("0.5.10", {"routed_dp_rank"}),
        ("0.5.14", {"routed_dp_rank"}),
        ("0.5.15", {"routed_dp_rank"}),
        ("0.5.17", {"routed_dp_rank"}),
        ("0.5.23", {"routed_dp_rank"}),
        (None, {"data_parallel_rank", "routed_dp_rank"}),
    ],
)
def test_each_release_gets_its_rank_field(version, fields):
    """The catalogue's table of releases; a name that a release ignores would leave the balancer."""
    body = body_of(version, 3)
    room = body.pop("bootstrap_room")
    assert room % 4 == 3
    assert 0 <= room < 2**63
    assert body == {
        "input_ids": [7, 8, 9],
        "rid": "batch0-0-0",
        "bootstrap_host": "2.2.2.2",
        "bootstrap_port": None,
        "sampling_params": {"temperature": 0, "max_new_tokens": 1, "ignore_eos": True},
        **dict.fromkeys(fields, 3),
    }


def test_several_prompts_take_lists():
    """The rank is one number for a whole post, so there only the rooms can choose."""
    body = body_of("0.5.23", 0, 1, 2)
    assert body["input_ids"] == [[7, 8, 9]] * 3
    assert body["rid"] == ["batch0-0-0", "batch0-1-1", "batch0-2-2"]
    assert body["bootstrap_host"] == [FAKE_HOST] * 3
    assert body["bootstrap_port"] == [None] * 3
    assert [room % 4 for room in body["bootstrap_room"]] == [0, 1, 2]
    assert "routed_dp_rank" not in body
    assert body_of("0.5.23", 2, 2)["routed_dp_rank"] == 2


def test_a_unified_engine_gets_no_transfer():
    """Without a transfer there is no room, and nothing to route several prompts by."""
    body = body_of("0.5.13", 1, peer=Peer(None))
    assert not [name for name in body if name.startswith("bootstrap")]
    assert body["routed_dp_rank"] == 1
    with pytest.raises(UsageError, match="one post"):
        body_of("0.5.13", 0, 1, peer=Peer(None))


def test_the_balancer_is_left_to_choose():
    """Any field of a rank would take the choice from it."""
    body = body_of("0.5.13", None)
    assert not {"data_parallel_rank", "routed_dp_rank"} & body.keys()
    assert isinstance(body["bootstrap_room"], int)


@given(ranks=st.lists(st.integers(0, 7) | st.none(), min_size=1, max_size=200))
def test_rooms_are_fresh_and_route(ranks):
    """A room that is used twice mixes up two transfers; its remainder is the rank."""
    rooms = Rooms(8)
    taken = [rooms.take(rank) for rank in ranks]
    assert len(set(taken)) == len(taken)
    assert all(r is None or room % 8 == r for room, r in zip(taken, ranks, strict=True))
    assert all(0 <= room < 2**63 for room in taken)


@pytest.mark.parametrize(
    ("text", "release"),
    [("0.5.10.post1", (0, 5, 10)), ("0.5.13.dev7+g1", (0, 5, 13)), ("main", None), ("", None)],
)
def test_versions_are_read_leniently(text, release):
    """Engines are often built from a branch; without a version every field is sent."""
    assert parse_release(text) == release

"""What the engine answers over HTTP."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pdtrace.simulate.serve.clock import Clock
    from pdtrace.simulate.serve.prompts import BadRequestError
    from pdtrace.simulate.serve.scheduler import Ticket

TOKEN = 0  # what a model that is not there generates
FLUSHED = (
    "Cache flushed.\nPlease check backend logs for more details. "
    "(When there are running or waiting requests, the operation will not be performed.)\n"
)


def describe_result(ticket: Ticket, clock: Clock) -> dict[str, Any]:
    """The answer to a prompt, with the times that an engine with metrics gives."""
    journey, passage = ticket.journey, ticket.passage
    assert journey is not None
    assert journey.finished is not None
    now = clock.now()

    def epoch(seconds: float) -> float:
        return clock.at(seconds) / 1e9

    return {
        "text": "",
        "output_ids": [TOKEN],
        "meta_info": {
            "id": ticket.prompt.rid,
            "finish_reason": {"type": "length", "length": 0},
            "prompt_tokens": ticket.prompt.tokens,
            "weight_version": "default",
            "num_retractions": 0,
            "reasoning_tokens": 0,
            "completion_tokens": 1,
            "cached_tokens": 0,
            "dp_rank": ticket.prompt.rank,
            "queue_time": journey.selected - journey.taken,
            "e2e_latency": ticket.due - passage.received,
            "request_received_ts": epoch(passage.received),
            "api_server_dispatch_finish_ts": epoch(passage.dispatched),
            "forward_entry_time": epoch(journey.selected),
            "prefill_finished_time": epoch(journey.finished),
            "request_finished_ts": epoch(ticket.due),
            "response_sent_to_client_ts": epoch(now),
            "simulated": True,
        },
    }


def describe_refusal(error: BadRequestError) -> dict[str, Any]:
    """Why a post was answered with 400; wrong types and wrong values are told differently."""
    if error.is_schema:
        return describe_error(str(error), 400, "Bad Request")
    return {"error": {"message": str(error)}}


def describe_error(message: str, code: int, kind: str) -> dict[str, Any]:
    """An error of the server."""
    return {"object": "error", "message": message, "type": kind, "param": None, "code": code}


def encode(content: object) -> bytes:
    """As JSON."""
    return json.dumps(content, separators=(",", ":")).encode()


def encode_event(content: object) -> bytes:
    """As a server-sent event."""
    return b"data: " + encode(content) + b"\n\n"

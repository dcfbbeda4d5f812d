"""What a sender is told, by the OTLP specification: taken, partly taken, come again, or never."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from google.protobuf.json_format import MessageToJson
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from pdtrace.collect.settings import RETRY_SECONDS

if TYPE_CHECKING:
    from pdtrace.collect.messages import Message

# google.rpc.Code
INVALID_ARGUMENT = 3
DEADLINE_EXCEEDED = 4
NOT_FOUND = 5
RESOURCE_EXHAUSTED = 8
UNIMPLEMENTED = 12
UNAVAILABLE = 14


@dataclass(eq=False)
class RefusedError(Exception):
    """A request that is not taken.

    Attributes:
        http: HTTP status.
        code: google.rpc.Code.
        message: Why, and what would help.
        is_retryable: Whether the same request may be taken later.
    """

    http: int
    code: int
    message: str
    is_retryable: bool = False

    def forget(self) -> RefusedError:
        """Itself, without the frames it came through: they hold the body until a collection."""
        self.__cause__ = self.__context__ = None
        return self.with_traceback(None)

    def build_status(self) -> Status:
        """The google.rpc.Status, with RetryInfo where coming again makes sense."""
        status = Status(code=self.code, message=self.message)
        if self.is_retryable:
            info = RetryInfo()
            info.retry_delay.FromSeconds(RETRY_SECONDS)
            status.details.add().Pack(info)
        return status


def refuse_malformed(why: str) -> RefusedError:
    """Refuse for good: no later attempt would read better."""
    return RefusedError(400, INVALID_ARGUMENT, why)


def refuse_too_large(max_bytes: int) -> RefusedError:
    """Refuse for good: the message will not shrink. Without RetryInfo no sender retries."""
    return RefusedError(
        413,
        RESOURCE_EXHAUSTED,
        f"the message is larger than {max_bytes >> 20} MiB; send smaller batches, or start the"
        " collector with a larger --max-message-mib",
    )


def defer(why: str) -> RefusedError:
    """Ask to come again.

    503 rather than 429: both are retryable, but OpenTelemetry's older Python exporters drop what
    was answered with 429.
    """
    return RefusedError(503, UNAVAILABLE, why, is_retryable=True)


def build_response(message: Message) -> ExportTraceServiceResponse:
    """The answer to a message that was taken; ``partial_success`` only if a part was not."""
    response = ExportTraceServiceResponse()
    if message.num_rejected:
        response.partial_success.rejected_spans = message.num_rejected
        response.partial_success.error_message = (
            "spans whose trace_id is not 16 bytes or whose span_id is not 8 bytes, or all zero"
        )
    return response


def encode(body: Status | ExportTraceServiceResponse, *, is_json: bool) -> bytes:
    """Encode an answer as its request was."""
    if is_json:
        text: str = MessageToJson(body, indent=None)
        return text.encode()
    return bytes(body.SerializeToString())

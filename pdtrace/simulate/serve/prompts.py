"""What is posted to ``/generate``, checked as the engine checks it."""

from __future__ import annotations

import itertools
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

if TYPE_CHECKING:
    from pdtrace.simulate.settings import Launch

BYTES_A_TOKEN = 4  # of text, which nothing here can tokenize
MAX_PROMPTS = 4096  # in one post

TokenId = Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)]
Room = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


class BadRequestError(Exception):
    """A post that is answered with 400; ``is_schema``: it is not even of the right form."""

    def __init__(self, message: str, *, is_schema: bool = False) -> None:
        super().__init__(message)
        self.is_schema = is_schema


class Body(msgspec.Struct):
    """The fields that matter here; others are ignored, as the engine does."""

    text: str | list[str] | None = None
    input_ids: list[TokenId | list[TokenId]] | None = None
    sampling_params: dict[str, Any] | list[dict[str, Any]] | None = None
    rid: str | list[str] | None = None
    stream: bool = False
    bootstrap_host: str | list[str | None] | None = None
    bootstrap_port: int | list[int | None] | None = None
    bootstrap_room: Room | list[Room | None] | None = None
    data_parallel_rank: int | None = None
    routed_dp_rank: int | None = None


_DECODER = msgspec.json.Decoder(Body)


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt of a post: request id, tokens, DP rank, bootstrap room."""

    rid: str
    tokens: int
    rank: int
    room: int


@dataclass(frozen=True)
class Post:
    """What was posted.

    Attributes:
        prompts: In order.
        is_single: Posted by itself, so answered by itself and not as a list of one.
        is_streamed: Answered as server-sent events.
    """

    prompts: list[Prompt]
    is_single: bool
    is_streamed: bool


def decode_body(data: bytes) -> Body:
    """The body of a post.

    Raises:
        BadRequestError: It is not JSON, or a field has the wrong type.
    """
    try:
        return _DECODER.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequestError(str(error), is_schema=True) from error


class Router:
    """Turns bodies into prompts and gives each its rank, as the release does.

    Args:
        launch: The engine start.
    """

    def __init__(self, launch: Launch) -> None:
        self._launch = launch
        self._dp_size = launch.engine.dp_size
        # From 0.5.15 to 0.5.17 the older name of the field is ignored.
        self._takes_old_name = not (0, 5, 15) <= launch.release <= (0, 5, 17)
        self._in_turn = itertools.cycle(range(self._dp_size))

    def read(self, body: Body) -> Post:
        """The prompts of a body.

        Raises:
            BadRequestError: The engine would refuse it.
        """
        lengths, is_single = _measure_prompts(body)
        for num in lengths:
            if num >= self._launch.context_len:
                raise BadRequestError(
                    f"The input ({num} tokens) is longer than the model's context length "
                    f"({self._launch.context_len} tokens)."
                )
        _check_sampling(body, len(lengths))
        rids = _name(body, len(lengths), is_single=is_single)
        rooms = _spread(body.bootstrap_room, len(lengths), "bootstrap_room")
        chosen = self._choose_rank(body)
        prompts = []
        for rid, num, room in zip(rids, lengths, rooms, strict=True):
            rank, used_room = self._route(chosen, room)
            prompts.append(Prompt(rid, num, rank, used_room))
        return Post(prompts, is_single, body.stream)

    def _choose_rank(self, body: Body) -> int | None:
        rank = body.routed_dp_rank
        if rank is None and self._takes_old_name:
            rank = body.data_parallel_rank
        if rank is not None and not 0 <= rank < self._dp_size:
            raise BadRequestError(f"routed_dp_rank={rank} out of range [0, {self._dp_size})")
        return rank

    def _route(self, chosen: int | None, room: int | None) -> tuple[int, int]:
        """Rank and room; a fake peer needs no room, so one is given then."""
        if chosen is None and room is not None:
            if self._launch.load_balance_method != "round_robin":
                return room % self._dp_size, room
            return next(self._in_turn), room
        rank = next(self._in_turn) if chosen is None else chosen
        return rank, rank if room is None else room


def _measure_prompts(body: Body) -> tuple[list[int], bool]:
    """Tokens of every prompt; whether there is just one, posted by itself."""
    if (body.text is None) == (body.input_ids is None):
        raise BadRequestError("Either text, input_ids or input_embeds should be provided.")
    if body.text is not None:
        texts = [body.text] if isinstance(body.text, str) else body.text
        lengths = [-(-len(text.encode()) // BYTES_A_TOKEN) for text in texts]
        is_single = isinstance(body.text, str)
    else:
        ids = body.input_ids or []
        lists = [one for one in ids if isinstance(one, list)]
        if lists and len(lists) != len(ids):
            raise BadRequestError("input_ids: ids and lists of ids are mixed", is_schema=True)
        is_single = not lists
        lengths = [len(one) for one in lists] if lists else [len(ids)]
    if not lengths or 0 in lengths:
        raise BadRequestError("input_ids cannot be empty.")
    if len(lengths) > MAX_PROMPTS:
        raise BadRequestError(f"at most {MAX_PROMPTS} prompts are taken in one post")
    return lengths, is_single


def _check_sampling(body: Body, num: int) -> None:
    given = body.sampling_params
    if isinstance(given, list) and len(given) != num:
        raise BadRequestError("sampling_params: one for each prompt, or one for all")
    for params in given if isinstance(given, list) else [given or {}]:
        limit, samples = params.get("max_new_tokens"), params.get("n", 1)
        if limit is not None and (not isinstance(limit, int) or limit < 0):
            raise BadRequestError(f"max_new_tokens must be at least 0, got {str(limit)[:40]}.")
        if samples != 1:
            raise BadRequestError("parallel sampling (n > 1) is not simulated")


def _name(body: Body, num: int, *, is_single: bool) -> list[str]:
    """Request ids."""
    given = body.rid
    if given is None:
        return [uuid.uuid4().hex for _ in range(num)]
    if isinstance(given, str):
        return [given] if is_single else [f"{given}_{i}" for i in range(num)]
    if len(given) != num:
        raise BadRequestError(
            "The specified rids length mismatch with the batch_size for batch processing."
        )
    if len(set(given)) != num:
        raise BadRequestError("Duplicate request IDs detected within the request.")
    return given


def _spread(given: int | list[int | None] | None, num: int, name: str) -> list[int | None]:
    """A value for each prompt."""
    if isinstance(given, list):
        if len(given) != num:
            raise BadRequestError(f"{name}: one for each prompt, or one for all")
        return given
    if given is None or num == 1:
        return [given] * num
    return [given + i for i in range(num)]

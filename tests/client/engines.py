"""An HTTP server that answers as a prefill engine of a given release does, and keeps what it got.

It computes nothing: each rank serves one request after another in a fixed time. ``pdtrace simulate
--serve`` is the engine to measure; this one can also misbehave.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Iterator

METRICS = """# HELP sglang:num_requests_total Number of requests
# TYPE sglang:num_requests_total counter
sglang:num_requests_total{{dp_rank="0"}} {num}.0
"""


@dataclass
class FakeEngine:
    """What the server is, and what it was asked.

    Attributes:
        version, num_ranks, mode: As ``/server_info`` tells.
        service_s: Seconds a rank takes for a request.
        more_info: Further keys of ``/server_info``.
        misbehave: Substring of a request id → ``abort``, ``drop``, ``hang``, ``garbage``,
            ``large``, or an HTTP status as text.
        has_metrics, has_info: Whether these paths are there.
        refusals: How often a flush is refused before it is done.
        api_key: Asked for, if not empty.
        posts: The bodies of ``/generate``, and when each was complete (monotonic seconds).
        asked: Paths asked for, in order.
    """

    version: str = "0.5.13"
    num_ranks: int = 4
    mode: str = "prefill"
    service_s: float = 0.01
    more_info: dict[str, Any] = field(default_factory=dict)
    misbehave: dict[str, str] = field(default_factory=dict)
    has_metrics: bool = True
    has_info: bool = True
    refusals: int = 0
    api_key: str = ""
    posts: list[tuple[dict[str, Any], float]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    url: str = ""

    def __post_init__(self) -> None:
        self._turns: dict[int, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._next = 0

    @property
    def release(self) -> tuple[int, ...]:
        """The version as numbers."""
        return tuple(int(p) for p in self.version.split(".")[:3])

    @property
    def bodies(self) -> list[dict[str, Any]]:
        """What was posted."""
        return [body for body, _ in self.posts]

    def application(self) -> web.Application:
        """Its routes: those of the release."""
        app = web.Application(client_max_size=1 << 28, middlewares=[self._keep])
        app.router.add_post("/generate", self._generate)
        app.router.add_route("*", "/flush_cache", self._flush)
        if self.has_info:
            app.router.add_get("/get_server_info", self._info)
            if self.release >= (0, 5, 6):
                app.router.add_get("/server_info", self._info)
        if self.has_metrics:
            app.router.add_get("/metrics", self._metrics)
        return app

    @web.middleware
    async def _keep(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.asked.append(request.path)
        if self.api_key and request.headers.get("Authorization") != f"Bearer {self.api_key}":
            return web.json_response({"error": "Unauthorized"}, status=401)
        answer: web.StreamResponse = await handler(request)
        return answer

    async def _info(self, _: web.Request) -> web.Response:
        size = {"dp_size": self.num_ranks}
        if self.release >= (0, 5, 22):
            size = {"dp_size": 1, "attn_dp_size": self.num_ranks}
        info = {"model_path": "/models/x", "version": self.version, **size}
        return web.json_response(info | {"disaggregation_mode": self.mode} | self.more_info)

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(text=METRICS.format(num=len(self.posts)))

    async def _flush(self, _: web.Request) -> web.Response:
        if self.refusals:
            self.refusals -= 1
            return web.Response(text="busy", status=400)
        return web.Response(text="Cache flushed.\nPlease check backend logs for more details.\n")

    def _route(self, body: dict[str, Any], room: int | None) -> int:
        """As section 12 of the format catalogue says, release by release."""
        rank = None
        if self.release >= (0, 5, 10):
            rank = body.get("routed_dp_rank")
        if rank is None and ((0, 4, 9) <= self.release < (0, 5, 15) or self.release >= (0, 5, 18)):
            rank = body.get("data_parallel_rank")
        if rank is None and room is not None:
            return room % self.num_ranks
        if rank is None:
            self._next += 1
            return self._next % self.num_ranks
        return int(rank)

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        text = await request.read()
        self.posts.append((json.loads(text), time.monotonic()))
        body = self.posts[-1][0]
        is_batch = isinstance(body["rid"], list)
        rids = body["rid"] if is_batch else [body["rid"]]
        for part, how in self.misbehave.items():
            if any(part in rid for rid in rids) and how != "abort":
                return await self._misbehave(request, how)
        prompts = body.get("input_ids") or body["text"]
        rooms = body.get("bootstrap_room")
        rooms = rooms if is_batch else [rooms]
        prompts = prompts if is_batch else [prompts]
        if self.mode == "prefill" and None in (rooms or [None]):
            message = "Invalid request: Disaggregated request received without bootstrap room id"
            return web.json_response({"error": {"message": message}}, status=400)
        answers = await asyncio.gather(
            *(
                self._serve(body, rid, prompt, room)
                for rid, prompt, room in zip(
                    rids, prompts, rooms or [None] * len(rids), strict=True
                )
            )
        )
        return web.json_response(answers if is_batch else answers[0])

    async def _serve(
        self, body: dict[str, Any], rid: str, prompt: list[int] | str, room: int | None
    ) -> dict[str, Any]:
        rank = self._route(body, room)
        async with self._turns[rank]:
            await asyncio.sleep(self.service_s)
        reason: dict[str, Any] = {"type": "length", "length": 1}
        if any(part in rid and how == "abort" for part, how in self.misbehave.items()):
            reason = {"type": "abort", "message": "KV transfer failed"}
        meta = {
            "id": rid,
            "finish_reason": reason,
            "prompt_tokens": len(prompt) if isinstance(prompt, list) else len(prompt.split()),
            "completion_tokens": 1,
            "cached_tokens": 0,
        }
        if self.release >= (0, 5, 10):
            meta["dp_rank"] = rank
        return {"text": "", "output_ids": [1], "meta_info": meta}

    async def _misbehave(self, request: web.Request, how: str) -> web.StreamResponse:
        if how == "hang":
            await asyncio.sleep(60)
        if how == "drop":
            assert request.transport is not None
            request.transport.abort()
        if how == "garbage":
            return web.Response(text="<html>")
        if how == "large":
            return web.Response(body=b" " * (17 << 20))
        return web.json_response({"error": {"message": "no\x1b[31m"}}, status=int(how))


@contextmanager
def serve(engine: FakeEngine, port: int = 0) -> Iterator[FakeEngine]:
    """Serve an engine from another thread, at its ``url``."""
    loop = asyncio.new_event_loop()
    runner = web.AppRunner(engine.application(), shutdown_timeout=0.1)

    async def start() -> None:
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", port)
        await site.start()
        address = runner.addresses[0]
        engine.url = f"http://{address[0]}:{address[1]}"

    loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield engine
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

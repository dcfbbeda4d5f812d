"""How late the load client sends, against posting at the planned time, in one run.

``python benchmarks/load.py [NUM]`` starts a small server in a process of its own and sends it NUM
prompts (64) of 8192 tokens from one core: all at once, with Poisson arrivals, and by as many
clients that each send after an answer. It prints how much later than planned the last byte was
handed to the operating system, and when the server had the whole body, both in milliseconds, beside
the same with an ordinary aiohttp ``post`` that begins at the planned time.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import aiohttp
import numpy as np
from aiohttp import web

from pdtrace.client.departures import Round, undisturbed, wait_until
from pdtrace.client.flights import Departure
from pdtrace.client.prompts import IdMaker

if TYPE_CHECKING:
    from numpy.typing import NDArray

    F64 = NDArray[np.float64]

TOKENS = 8192
RATE = 100.0  # requests a second of the Poisson arrivals
SERVICE_S = 0.2
ROUNDS = 5


async def answer(request: web.Request) -> web.Response:
    """As an engine would; says when it had the body (monotonic clock, one for all processes)."""
    await request.read()
    whole = time.monotonic()
    await asyncio.sleep(SERVICE_S)
    return web.json_response({"whole": whole})


def serve() -> None:
    """Serve on a free port, which is printed."""

    async def start() -> None:
        app = web.Application(client_max_size=1 << 26)
        app.router.add_post("/generate", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        print(runner.addresses[0][1], flush=True)
        await asyncio.Event().wait()

    asyncio.run(start())


def open_session() -> aiohttp.ClientSession:
    """A connection for each request, as in the client."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, force_close=True),
        timeout=aiohttp.ClientTimeout(total=None),
    )


def quantiles(values: F64) -> str:
    """Median, 99th percentile and maximum."""
    return "".join(f"{v:9.2f}" for v in np.quantile(values, [0.5, 0.99, 1.0]))


async def send_held(url: str, bodies: list[bytes], how: str, offsets: list[float]) -> list[F64]:
    """With the client: milliseconds late at the socket and at the server."""
    async with open_session() as session:
        stop, cut = asyncio.Event(), asyncio.Event()
        under_way = Round(lambda k: Departure(session, url, bodies[k % len(bodies)], 60), stop, cut)
        if how == "closed":
            await under_way.run_closed(2 * len(bodies), len(bodies), 0.0)
        else:
            await under_way.run_open(offsets)
    flights = [d.flight for d in under_way.departures.values()]
    assert all(f.status == 200 for f in flights)
    late = np.array([f.late_s for f in flights], dtype=np.float64)
    whole = np.array([json.loads(f.text)["whole"] for f in flights])
    planned = np.array([f.planned for f in flights], dtype=np.float64)
    return [late * 1e3, (whole - planned) * 1e3]


async def send_plainly(url: str, bodies: list[bytes], how: str, offsets: list[float]) -> list[F64]:
    """With ordinary posts; what the socket got when is not known, only what the server had."""
    out: list[float] = []
    headers = {"Content-Type": "application/json"}
    async with open_session() as session:

        async def post(body: bytes, planned: float) -> float:
            await wait_until(planned)
            async with session.post(url, data=body, headers=headers) as response:
                out.append((await response.json())["whole"] - planned)
            return time.monotonic()

        async def act(body: bytes, start: float) -> None:
            await post(body, await post(body, start))

        start = time.monotonic() + 0.2
        with undisturbed():
            if how == "closed":
                await asyncio.gather(*(act(body, start) for body in bodies))
            else:
                pairs = zip(bodies, offsets, strict=True)
                await asyncio.gather(*(post(body, start + at) for body, at in pairs))
    return [np.array(out) * 1e3]


def main() -> None:
    """Measure and print."""
    num = int(sys.argv[1]) if len(sys.argv) > 1 else 64
    maker = IdMaker(32000, 0)
    bodies = [
        json.dumps({"input_ids": maker.make(k, TOKENS)[0]}, separators=(",", ":")).encode()
        for k in range(num)
    ]
    server = subprocess.Popen(
        [sys.executable, __file__, "--serve"], stdout=subprocess.PIPE, text=True
    )
    cores = sorted(os.sched_getaffinity(0))
    try:
        assert server.stdout is not None
        url = f"http://127.0.0.1:{int(server.stdout.readline())}/generate"
        if len(cores) > 1:
            os.sched_setaffinity(server.pid, cores[1:])
        os.sched_setaffinity(0, cores[:1])
        print(
            f"{num} prompts of {TOKENS} tokens, {len(bodies[0]):,} bytes each, {ROUNDS} rounds;"
            f" milliseconds late: median, 99th percentile, maximum"
        )
        print(f"{'arrivals':<10}{'the client, at the socket':>28}{'at the server':>28}"
              f"{'ordinary posts, at the server':>33}")  # fmt: skip
        rng = np.random.default_rng(0)
        for how in ("batch", "poisson", "closed"):
            held: list[list[F64]] = []
            plain: list[list[F64]] = []
            for _ in range(ROUNDS):
                gaps = rng.exponential(1 / RATE, num) if how == "poisson" else np.zeros(num)
                offsets = np.cumsum(gaps).tolist()
                held.append(asyncio.run(send_held(url, bodies, how, offsets)))
                plain.append(asyncio.run(send_plainly(url, bodies, how, offsets)))
            socket, whole = (np.concatenate(parts) for parts in zip(*held, strict=True))
            (posted,) = (np.concatenate(parts) for parts in zip(*plain, strict=True))
            print(f"{how:<11}{quantiles(socket)} {quantiles(whole)}      {quantiles(posted)}")
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    if sys.argv[1:] == ["--serve"]:
        serve()
    else:
        main()

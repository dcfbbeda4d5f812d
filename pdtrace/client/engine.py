"""What else an engine is asked: about itself, to forget its cache, for its metrics."""

from __future__ import annotations

import asyncio
import json
import os
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import aiohttp

from pdtrace.client.bodies import parse_release
from pdtrace.client.flights import AnswerError, read_bounded
from pdtrace.errors import InputError

if TYPE_CHECKING:
    from pdtrace.client.bodies import Release

INFO_PATHS = ("/server_info", "/get_server_info")  # from 0.5.6 on; in every release
ASK_TIMEOUT_S = 10.0
FLUSH_TIMEOUT_S = 30.0
_MAX_METRICS_BYTES = 64 << 20
_RETRY_S = 0.25
_SECRETS = ("api_key", "password", "secret", "keyfile")


@dataclass(frozen=True)
class Facts:
    """What an engine says of itself.

    Attributes:
        info: Its answer, without secrets; None: it gave none.
        version: As text; None: unknown.
        release: The same as numbers.
        num_ranks: DP ranks.
        mode: ``prefill``, ``decode``, ``null`` (unified), or None.
        bootstrap_port: Where decode engines ask it for KV caches.
        is_simulated: It says that it is no real engine.
    """

    info: dict[str, Any] | None
    version: str | None
    release: Release | None
    num_ranks: int | None
    mode: str | None
    bootstrap_port: int | None
    is_simulated: bool


class Engine:
    """An engine, to be asked.

    Args:
        session: What to ask with.
        url: Its address, without a slash at the end.
    """

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self.url = url

    async def ask_facts(self, patience: float) -> Facts:
        """What it says of itself.

        Args:
            patience: Seconds to go on asking while nobody answers there.

        Raises:
            InputError: Nobody answered in time, or the engine only decodes.
        """
        until = time.monotonic() + patience
        while True:
            try:
                return self._read_facts(await self._ask_info())
            except AnswerError as error:
                raise InputError(f"no engine answers: {error}", path=self.url) from error
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                if time.monotonic() >= until:
                    raise InputError(f"no engine answers: {_describe(error)}", path=self.url) from (
                        error
                    )
                await asyncio.sleep(_RETRY_S)

    async def _ask_info(self) -> dict[str, Any] | None:
        for path in INFO_PATHS:
            status, text = await self._ask("GET", path, ASK_TIMEOUT_S)
            if status == 401:
                raise InputError(
                    "the engine wants its API key: put it into the environment variable"
                    " PDTRACE_API_KEY",
                    path=self.url,
                )
            if status == 200:
                try:
                    info = json.loads(text)
                except (ValueError, RecursionError):
                    continue
                if isinstance(info, dict):
                    return info
        return None

    def _read_facts(self, info: dict[str, Any] | None) -> Facts:
        if info is None:
            return Facts(None, None, None, None, None, None, False)
        version = info.get("version")
        version = version if isinstance(version, str) else None
        # 0.5.22 renamed the number of DP-attention ranks; its dp_size is another one
        sizes = [info.get("attn_dp_size"), info.get("dp_size")]
        size = next((s for s in sizes if type(s) is int and 0 < s < 1 << 16), None)
        mode = info.get("disaggregation_mode")
        mode = mode if isinstance(mode, str) else None
        if mode == "decode":
            raise InputError("this is a decode engine; name its prefill engine", path=self.url)
        port = info.get("disaggregation_bootstrap_port")
        return Facts(
            info=_without_secrets(info),
            version=version,
            release=None if version is None else parse_release(version),
            num_ranks=size,
            mode=mode,
            bootstrap_port=port if type(port) is int and 0 < port < 1 << 16 else None,
            is_simulated=info.get("simulated") is True,
        )

    async def flush(self) -> str | None:
        """Have it forget its prefix cache, which it refuses while it is busy.

        Returns:
            None, or why it did not.
        """
        until = time.monotonic() + FLUSH_TIMEOUT_S
        while True:
            try:
                status, _ = await self._ask("POST", "/flush_cache", FLUSH_TIMEOUT_S)
            except (aiohttp.ClientError, TimeoutError, OSError, AnswerError) as error:
                return f"/flush_cache: {_describe(error)}"
            if status == 200:
                return None
            if status != 400 or time.monotonic() >= until:
                return f"/flush_cache: answered {status}"
            await asyncio.sleep(_RETRY_S)

    async def scrape(self) -> bytes | str:
        """Its metrics, after a comment that says when; or why there are none, as text."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        try:
            status, text = await self._ask("GET", "/metrics", ASK_TIMEOUT_S, _MAX_METRICS_BYTES)
        except (aiohttp.ClientError, TimeoutError, OSError, AnswerError) as error:
            return f"/metrics: {_describe(error)}"
        if status == 404:
            return "the engine has no metrics (--enable-metrics)"
        if status != 200:
            return f"/metrics: answered {status}"
        return b"# scraped " + now.encode() + b"\n" + text

    async def _ask(
        self, method: str, path: str, timeout: float, most: int | None = None
    ) -> tuple[int, bytes]:
        async with (
            asyncio.timeout(timeout),
            self._session.request(method, self.url + path, allow_redirects=False) as response,
        ):
            text = await (read_bounded(response) if most is None else read_bounded(response, most))
            return response.status, text


def _without_secrets(info: dict[str, Any]) -> dict[str, Any]:
    """The answer is written down, and may hold the keys that the engine was started with."""
    return {
        name: "(left out)" if value and any(s in name.lower() for s in _SECRETS) else value
        for name, value in info.items()
    }


def _describe(error: BaseException) -> str:
    if isinstance(error, aiohttp.ClientConnectorError):
        if isinstance(error, aiohttp.ClientConnectorDNSError):
            return f"no machine {error.host} is known"
        number = error.os_error.errno  # its own text varies: "Connect call failed (…)"
        return os.strerror(number) if number else str(error.os_error)
    if isinstance(error, aiohttp.ClientResponseError):
        return "what answers there does not speak HTTP, or not as it should"
    return str(error) or ("it took too long" if isinstance(error, TimeoutError) else repr(error))

"""Asks an engine for its metrics, before, after, and in between."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import aiohttp

from pdtrace.collect.run_directory import AFTER, BEFORE, SERIES, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pdtrace.collect.run_directory import AppendFile, RunDirectory
    from pdtrace.collect.tally import Tally

MAX_BYTES = 64 << 20
TIMEOUT_S = 5.0
UNTIL_FIRST_S = 2.0


class ScrapeError(Exception):
    """A scrape failed; the message says where and why."""


class Scraper:
    """Scrapes the expositions of one engine.

    The scrape *before* is the first that succeeds: the engine may start after the collector. The
    scrape *after* is taken at the end; where the engine is gone by then, it is the last of the
    series. Each begins with a comment that says when it was taken.

    Args:
        urls: All are asked in one scrape. One that does not answer fails the scrape: counters that
            come and go would look like growth.
        interval: Seconds between the scrapes of the series; None: no series.
        directory: Where they are written.
        tally: Counts scrapes.
        warn: Called with one line at the first failure after a success.
    """

    def __init__(
        self,
        urls: Sequence[str],
        interval: float | None,
        directory: RunDirectory,
        tally: Tally,
        warn: Callable[[str], None],
    ) -> None:
        self._urls = urls
        self._interval = interval
        self._directory = directory
        self._tally = tally
        self._warn = warn
        self._series: AppendFile | None = directory.open(SERIES) if interval is not None else None
        self._has_before = False
        self._latest: bytes | None = None
        self._is_failing = False

    async def run(self) -> None:
        """Scrape until cancelled."""
        while True:
            await self._round()
            if not self._has_before:
                await asyncio.sleep(min(self._interval or UNTIL_FIRST_S, UNTIL_FIRST_S))
            elif self._interval is None:
                return
            else:
                await asyncio.sleep(self._interval)

    async def finish(self) -> None:
        """Take the scrape *after*."""
        text = await self._round(is_last=True) or self._latest
        if text is not None:
            try:
                await asyncio.to_thread(self._directory.put, AFTER, text)
            except StorageError as error:
                self._warn(f"{AFTER}: not written: {error}")

    async def _round(self, *, is_last: bool = False) -> bytes | None:
        """One scrape, written; None if it failed."""
        try:
            text = await self.scrape()
            if not self._has_before and not is_last:
                await asyncio.to_thread(self._directory.put, BEFORE, text)
                self._has_before = True
            if self._series is not None:
                await asyncio.to_thread(self._series.append, text)
                self._latest = text
        except (ScrapeError, StorageError) as error:
            self._tally.num_failed_scrapes += 1
            if not self._is_failing:
                self._warn(f"metrics: {error}")
            self._is_failing = True
            return None
        self._tally.num_scrapes += 1
        self._is_failing = False
        return text

    async def scrape(self) -> bytes:
        """Ask every URL.

        Raises:
            ScrapeError: One did not answer with an exposition.
        """
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as session:
            texts = await asyncio.gather(*(_ask(session, url) for url in self._urls))
        return b"# scraped " + now.encode() + b"\n" + _merge(texts)


async def _ask(session: aiohttp.ClientSession, url: str) -> bytes:
    try:
        async with session.get(url, headers={"Accept": "text/plain"}) as response:
            if response.status != 200:
                raise ScrapeError(f"{url}: answered {response.status}")
            text = bytearray()
            async for part in response.content.iter_any():
                text += part
                if len(text) > MAX_BYTES:
                    raise ScrapeError(f"{url}: more than {MAX_BYTES >> 20} MiB")
    except TimeoutError:
        raise ScrapeError(f"{url}: no answer within {TIMEOUT_S:g} s") from None
    except (aiohttp.ClientError, ValueError) as error:
        raise ScrapeError(f"{url}: {error}") from error
    return bytes(text)


def _merge(texts: Sequence[bytes]) -> bytes:
    """One exposition of several; each metric declared once, as a repetition tells scrapes apart."""
    seen: set[bytes] = set()
    lines = []
    for text in texts:
        for line in text.splitlines():
            if not line.strip() or line.startswith(b"# EOF"):
                continue
            if line.startswith((b"# HELP ", b"# TYPE ")):
                declared = b" ".join(line.split(None, 3)[1:3])
                if declared in seen:
                    continue
                seen.add(declared)
            lines.append(line + b"\n")
    return b"".join(lines)

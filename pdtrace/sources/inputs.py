"""Opens inputs: plain, .gz, .zst or standard input, as blocks of whole lines."""

from __future__ import annotations

import gzip
import io
import os
import sys
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from pdtrace.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

HEAD_BYTES = 1 << 18
BLOCK_BYTES = 1 << 20
_FEED_BYTES = 1 << 14
MAX_LINE_BYTES = 64 << 20
"""A line longer than this is no log line; the reader stops there instead of filling the memory."""


class _DamagedError(Exception):
    """A zstd stream is cut off or damaged."""


class _ZstdStream:
    """Decompresses zstd frames, and notices where the last one is cut off."""

    def __init__(self, raw: BinaryIO) -> None:
        import zstandard  # noqa: PLC0415  (only where a .zst is read)

        self._raw = raw
        self._new = zstandard.ZstdDecompressor().decompressobj
        self._error = zstandard.ZstdError
        self._frame = self._new()
        self._is_inside = False
        self._held = b""

    def read(self, size: int) -> bytes:
        """At most ``size`` bytes; none at the end."""
        while not self._held:
            data = self._raw.read(_FEED_BYTES)
            if not data:
                if self._is_inside:
                    raise _DamagedError
                return b""
            parts = []
            while data:
                try:
                    parts.append(self._frame.decompress(data))
                except self._error as e:
                    raise _DamagedError from e
                self._is_inside = not self._frame.eof
                data = self._frame.unused_data if self._frame.eof else b""
                if self._frame.eof:
                    self._frame = self._new()
            self._held = b"".join(parts)
        part, self._held = self._held[:size], self._held[size:]
        return part


class Input:
    """One file or stream that the user named.

    Attributes:
        path: As named.
        head: Its first bytes, decompressed.
        num_bytes: Size on disk; 0 for a stream.
        is_plain: A regular file without compression, so it may be read at any offset.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.num_bytes = 0
        self.is_plain = False
        self._raw: BinaryIO | None = None
        try:
            if path == "-":
                self._raw = sys.stdin.buffer
            else:
                raw = Path(path).open("rb")  # noqa: SIM115  (handed on to the reader)
                self._raw = raw
                self.num_bytes = os.fstat(raw.fileno()).st_size
        except OSError as e:
            raise InputError(f"cannot be read: {e.strerror or e}", path=path) from e
        magic = b""
        if path == "-" or not self._raw.seekable():
            self._raw = cast("BinaryIO", io.BufferedReader(cast("io.RawIOBase", self._raw)))
            magic = cast("io.BufferedReader", self._raw).peek(4)[:4]
        else:
            magic = self._raw.read(4)
            self._raw.seek(0)
            self.is_plain = True
        self._stream: BinaryIO = self._raw
        if magic[:2] == b"\x1f\x8b":
            self._stream = cast("BinaryIO", gzip.GzipFile(fileobj=self._raw))
            self.is_plain = False
        elif magic == b"\x28\xb5\x2f\xfd":
            self._stream = cast("BinaryIO", _ZstdStream(self._raw))
            self.is_plain = False
        self.head = b""
        self.head = self.read(HEAD_BYTES)

    def read(self, size: int) -> bytes:
        """Next ``size`` bytes of text, fewer only at the end.

        Raises:
            InputError: The file is damaged or cut off, or cannot be read.
        """
        parts: list[bytes] = []
        while size > 0:
            try:
                part = self._stream.read(size)
            except (EOFError, zlib.error, gzip.BadGzipFile, _DamagedError) as e:
                unpack = "zstdcat" if str(self.path).endswith(".zst") else "zcat"
                raise InputError(
                    "the compressed stream is cut off or damaged; copy the file again, or pipe"
                    f" what is left of it: {unpack} FILE | pdtrace analyze -",
                    path=self.path,
                ) from e
            except OSError as e:
                raise InputError(f"cannot be read: {e.strerror or e}", path=self.path) from e
            if not part:
                break
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    @property
    def done_bytes(self) -> int:
        """Bytes read so far, before decompression."""
        try:
            return self._raw.tell() if self._raw is not None and self.num_bytes else 0
        except (OSError, ValueError):
            return 0

    def blocks(self, size: int = BLOCK_BYTES) -> Iterator[bytes]:
        """The whole text as blocks that end with a newline; the last may lack it.

        Raises:
            InputError: A line is longer than ``MAX_LINE_BYTES``, or the stream is damaged.
        """
        rest = self.head
        while True:
            data = self.read(size)
            if not data:
                break
            cut = data.rfind(b"\n")
            if cut < 0:
                rest += data
                if len(rest) > MAX_LINE_BYTES:
                    raise InputError(
                        "a line of more than 64 MB; this is no log of lines", path=self.path
                    )
                continue
            yield rest + data[: cut + 1]
            rest = data[cut + 1 :]
        if rest:
            yield rest

    def fileno(self) -> int:
        """Descriptor of the file, for reading at offsets (only if ``is_plain``)."""
        assert self._raw is not None
        return self._raw.fileno()

    def close(self) -> None:
        """Close the file; standard input stays open."""
        if self.path != "-" and self._raw is not None:
            self._raw.close()

"""Prompts that no prefix cache can know: input ids, or texts of a wanted number of tokens."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from pdtrace.errors import InputError, UsageError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

LOWEST_ID = 1000  # special tokens and bytes stand below, in the vocabularies in use
MIN_VOCAB = 64
_MOST_WORDS = 4000
_ROUNDS = 30


class PromptMaker(Protocol):
    """Makes the prompt of a request."""

    def make(self, index: int, num_tokens: int) -> tuple[list[int] | str, int]:
        """A prompt and the number of its tokens.

        Args:
            index: Of the request, in the whole run; the same index and seed give the same prompt.
            num_tokens: Wanted length.
        """
        ...  # pragma: no cover


def spread(index: int, num: int, seed: int) -> int:
    """A number below ``num`` that differs from that of the ``num - 1`` indices on either side."""
    rng = np.random.default_rng([seed, num])
    step = int(rng.integers(1, num))
    while np.gcd(step, num) != 1:
        step = step % num + 1
    return (index * step + int(rng.integers(num))) % num


class IdMaker:
    """Random input ids; no tokenizer is needed.

    The first token is another one in every prompt, until all are used up; then two tell prompts
    apart. So a prefix cache finds nothing, or one token.

    Args:
        vocab_size: Ids are below it.
        seed: Of the drawing.
    """

    def __init__(self, vocab_size: int, seed: int) -> None:
        if vocab_size < MIN_VOCAB:
            raise UsageError(f"--vocab-size must be at least {MIN_VOCAB}")
        self._low = min(LOWEST_ID, vocab_size // 2)
        self._num = vocab_size - self._low
        self._seed = seed

    def make(self, index: int, num_tokens: int) -> tuple[list[int] | str, int]:
        """See :class:`PromptMaker`."""
        ids = np.random.default_rng([self._seed, index]).integers(self._num, size=num_tokens)
        ids[0] = spread(index, self._num, self._seed)
        if num_tokens > 1:
            ids[1] = index // self._num % self._num
        return (ids + self._low).tolist(), num_tokens


class TextMaker:
    """Texts of words that a tokenizer knows as one token each.

    Args:
        tokenizer: Counts the tokens, the special ones that it adds included.
        name: Of the tokenizer, for messages.
        seed: Of the drawing.

    Raises:
        InputError: Its vocabulary has too few words.
    """

    def __init__(self, tokenizer: Tokenizer, name: str, seed: int) -> None:
        self._tokenizer = tokenizer
        self._seed = seed
        tokenizer.no_truncation()
        tokenizer.no_padding()
        words = sorted({
            w for i in range(tokenizer.get_vocab_size())
            if len(w := tokenizer.decode([i]).strip()) > 1 and w.isascii() and w.isalpha()
        })  # fmt: skip
        drawn = np.random.default_rng(seed).permutation(len(words))[:_MOST_WORDS]
        begin, one_more = self._count("a"), self._count("a a") + 1
        self._words = [words[i] for i in drawn if self._count(f"a {words[i]} a") == one_more]
        # Without a space before it, a word may be several tokens.
        self._first = [w for w in self._words if self._count(w) == begin]
        if len(self._first) < MIN_VOCAB:
            raise InputError("fewer than 64 words of its vocabulary are one token each", path=name)

    def _count(self, text: str) -> int:
        return len(self._tokenizer.encode(text).ids)

    def make(self, index: int, num_tokens: int) -> tuple[list[int] | str, int]:
        """See :class:`PromptMaker`; where no text has just that many tokens, one close to it."""
        rng = np.random.default_rng([self._seed, index])
        num = len(self._words)
        chosen = rng.integers(num, size=num_tokens)
        if num_tokens > 1:
            chosen[1] = index // len(self._first) % num
        picked = [self._words[i] for i in chosen]
        picked[0] = self._first[spread(index, len(self._first), self._seed)]
        best: tuple[str, int] | None = None
        length = num_tokens
        for _ in range(_ROUNDS):
            text = " ".join(picked[:length])
            count = self._count(text)
            if best is None or abs(count - num_tokens) < abs(best[1] - num_tokens):
                best = text, count
            if count == num_tokens:
                break
            length = max(1, length + num_tokens - count)
            if length > len(picked):
                more = rng.integers(num, size=length - len(picked))
                picked += [self._words[i] for i in more]
        assert best is not None
        return best


def open_tokenizer(name: str) -> Tokenizer:
    """Load a tokenizer: a ``tokenizer.json``, a directory that holds one, or a name on the hub.

    Raises:
        UsageError: The extra is not installed.
        InputError: It cannot be loaded.
    """
    try:
        from tokenizers import Tokenizer  # noqa: PLC0415 (an extra)
    except ImportError as error:
        raise UsageError(
            "--tokenizer needs the extra pdtrace[tokenizer]: pip install 'pdtrace[tokenizer]'"
        ) from error
    path = Path(name)
    if path.is_dir():
        path = path / "tokenizer.json"
    try:
        if path.exists() or path.suffix == ".json":
            return Tokenizer.from_file(str(path))
        return Tokenizer.from_pretrained(name)
    except Exception as error:  # the library raises bare Exception
        raise InputError(f"no tokenizer could be loaded: {error}", path=name) from error

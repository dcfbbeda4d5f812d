"""Tokens of batches in which prompts were cut, from the chunk size.

Spans say how long a prompt is and in which batches it was, but not how it was cut. The scheduler
cuts a prompt only when the batch is full, so a batch with a prompt that goes on holds exactly the
chunk size, and that prompt's share is what the others leave; the last batch has the rest of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

Key = tuple[int, int]


class CutPrompt(NamedTuple):
    """A prompt that was computed in several batches.

    Attributes:
        ts: When the first was scheduled, nanoseconds.
        batches: Keys of the batches, in order.
        tokens: Its uncached tokens; −1 if not known.
    """

    ts: int
    batches: tuple[Key, ...]
    tokens: int


def solve_chunks(
    prompts: Iterable[CutPrompt], whole: dict[Key, int], chunk_size: int
) -> dict[Key, int]:
    """Tokens of the batches that cut prompts were in.

    Args:
        prompts: The cut prompts of all ranks.
        whole: Batch → tokens of the prompts in it that were not cut.
        chunk_size: Tokens of a full batch on one rank.

    Returns:
        Batch → tokens, where they follow; a batch whose sums do not fit is left out.
    """
    prompts = sorted(prompts)
    others = dict(whole)
    unsolved: dict[Key, int] = {}
    full: set[Key] = set()
    for prompt in prompts:
        full.update(prompt.batches[:-1])
        for key in prompt.batches:
            unsolved[key] = unsolved.get(key, 0) + 1
    for prompt in prompts:
        left = prompt.tokens
        for key in prompt.batches[:-1]:
            share = chunk_size - others.get(key, 0)
            # a second prompt of unknown share in the batch would be counted into this one's
            left = left - share if share > 0 and unsolved[key] == 1 else -1
            if left <= 0:
                break
            unsolved[key] = 0
        last = prompt.batches[-1]
        if left > 0 and others.get(last, 0) + left <= chunk_size:
            others[last] = others.get(last, 0) + left
            unsolved[last] -= 1
    return {
        key: chunk_size if key in full else others[key] for key, num in unsolved.items() if num == 0
    }

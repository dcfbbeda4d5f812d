"""Prompts: of the wanted length, in the vocabulary, and unknown to a prefix cache."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pdtrace.client.prompts import IdMaker, TextMaker, open_tokenizer, spread
from pdtrace.errors import InputError, UsageError


@settings(max_examples=30)
@given(
    vocab=st.integers(64, 200_000),
    seed=st.integers(0, 9),
    first=st.integers(0, 10**6),
    length=st.integers(1, 40),
)
def test_ids_are_in_the_vocabulary_and_begin_apart(vocab, seed, first, length):
    """A radix cache matches from the first token on: no two prompts of a run may share it."""
    maker = IdMaker(vocab, seed)
    prompts = [maker.make(first + k, length)[0] for k in range(30)]
    assert all(len(p) == length and all(0 <= i < vocab for i in p) for p in prompts)
    assert len({p[0] for p in prompts}) == 30
    assert maker.make(first, length)[0] == prompts[0]


@given(num=st.integers(2, 400), seed=st.integers(0, 9), first=st.integers(0, 10**6))
def test_spread_uses_every_number_once(num, seed, first):
    """As many prompts begin apart as there are tokens: a repetition is a cache hit."""
    assert {spread(k, num, seed) for k in range(first, first + num)} == set(range(num))


def test_two_tokens_tell_apart_what_one_cannot():
    """With more prompts than tokens the first repeats; then the second differs."""
    maker = IdMaker(64, 0)
    begins = [tuple(maker.make(k, 8)[0][:2]) for k in range(1000)]
    assert len(set(begins)) == 1000


def test_tiny_vocabulary_is_refused():
    """It could not tell prompts apart."""
    with pytest.raises(UsageError, match="vocab-size"):
        IdMaker(8, 0)


@pytest.fixture(scope="module")
def tokenizer_file(tmp_path_factory):
    """A byte-level BPE tokenizer that adds a beginning-of-text token, trained on made words."""
    tokenizers = pytest.importorskip("tokenizers")
    from tokenizers import decoders, models, pre_tokenizers, processors, trainers

    syllables = ["ka", "lo", "mi", "ru", "ten", "sa", "vo", "pel", "du", "nor"]
    words = [a + b + c for a in syllables for b in syllables for c in ("", "n", "sk")]
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=["<bos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(words * 20 + [" ".join(words)] * 20, trainer)
    made.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", 0)]
    )
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    made.save(str(path))
    return path


@pytest.mark.parametrize("length", [2, 10, 777, 8192])
def test_texts_have_the_wanted_number_of_tokens(tokenizer_file, length):
    """As the engine's own tokenizer counts, its beginning-of-text token included."""
    tokenizer = open_tokenizer(str(tokenizer_file.parent))
    maker = TextMaker(tokenizer, "made", 3)
    texts = [maker.make(k, length)[0] for k in range(8)]
    assert {len(tokenizer.encode(text).ids) for text in texts} == {length}
    assert {maker.make(k, length)[1] for k in range(8)} == {length}
    assert len({tokenizer.encode(text).ids[1] for text in texts}) == 8


def test_a_file_that_is_no_tokenizer_is_named(tmp_path):
    """The library's own message names neither file nor cause well."""
    pytest.importorskip("tokenizers")
    path = tmp_path / "tokenizer.json"
    path.write_text("{}")
    with pytest.raises(InputError, match="no tokenizer could be loaded"):
        open_tokenizer(str(path))

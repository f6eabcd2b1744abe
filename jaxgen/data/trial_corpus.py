"""A corpus that is on every machine, to try a large language model's script on."""

from __future__ import annotations

from functools import cache
from pydoc_data.topics import topics

import numpy as np

from jaxgen.data.subword_training import train_byte_pairs
from jaxgen.data.subwords import SubwordTokenizer
from jaxgen.data.token_corpus import TokenCorpus


@cache
def trial_corpus(vocabulary_size: int = 300) -> TokenCorpus:
    """Python's own documentation, some 700,000 characters, by byte pairs learned from it.

    Each tenth of its topics is held out. Another Python has another text.
    """
    texts = [text for _, text in sorted(topics.items())]
    tokenizer = train_byte_pairs(texts[:20], vocabulary_size)
    train, validation = (
        _stream(tokenizer, [text for place, text in enumerate(texts) if (place % 10 == 9) == held])
        for held in (False, True)
    )
    return TokenCorpus(train, validation, tokenizer)


def _stream(tokenizer: SubwordTokenizer, texts: list[str]) -> np.ndarray:
    end = np.array([tokenizer.special_token("eos")], np.int32)
    return np.concatenate(
        [part for tokens in tokenizer.encode_ordinary(texts) for part in (tokens, end)]
    )

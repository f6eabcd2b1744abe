"""What a large language model learns: token files, or a corpus that is on every machine."""

from __future__ import annotations

from functools import cache
from pydoc_data.topics import topics

import numpy as np

from jaxgen.data.subword_training import train_byte_pairs
from jaxgen.data.subwords import SubwordTokenizer
from jaxgen.data.token_corpus import TokenCorpus, read_corpus_directory
from jaxgen.errors import UserError


def chosen_corpus(directory: str, trial: bool) -> TokenCorpus:
    """The corpus in a directory of token files, or, to try a script out, `trial_corpus`.

    Raises `UserError` where neither is asked for, or the directory isn't one of token files.
    """
    if trial:
        return trial_corpus()
    if not directory:
        raise UserError("There is nothing to learn: give --tokens DIRECTORY (see docs/data.md).")
    return read_corpus_directory(directory)


@cache
def trial_corpus(vocabulary_size: int = 300) -> TokenCorpus:
    """Python's own documentation, the first forty of its topics, by byte pairs learned from them.

    Two topics are held out. Another Python has another text.
    """
    texts = [text for _, text in sorted(topics.items())][:40]
    tokenizer = train_byte_pairs(texts, vocabulary_size)
    train, validation = (
        _stream(tokenizer, [text for place, text in enumerate(texts) if (place % 20 == 9) == held])
        for held in (False, True)
    )
    return TokenCorpus(train, validation, tokenizer)


def _stream(tokenizer: SubwordTokenizer, texts: list[str]) -> np.ndarray:
    end = np.array([tokenizer.special_token("eos")], np.int32)
    return np.concatenate(
        [part for tokens in tokenizer.encode_ordinary(texts) for part in (tokens, end)]
    )

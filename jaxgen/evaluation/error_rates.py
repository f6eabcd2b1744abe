"""Error rates by edit distance: of words in texts, and of phonemes in pronunciations."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple

from rapidfuzz.distance import Levenshtein

from jaxgen.errors import UserError
from jaxgen.evaluation.pairs import paired

Tokens = Iterable[Hashable]  # words, phonemes, or an array of token numbers


class PronunciationErrors(NamedTuple):
    """words: share of words with no right pronunciation; phonemes: errors per right phoneme."""

    words: float
    phonemes: float


def edit_distance(one: Tokens, other: Tokens) -> int:
    """The fewest insertions, deletions and substitutions that make one sequence the other.

    Levenshtein 1966; a text is a sequence of characters.
    """
    # rapidfuzz compares hashes, and those of -1 and -2, or "a" and 97, are the same to it.
    numbers: dict[Hashable, int] = {}
    return Levenshtein.distance(
        *([numbers.setdefault(token, len(numbers)) for token in each] for each in (one, other))
    )


def token_error_rate(references: Sequence[Tokens], sequences: Sequence[Tokens]) -> float:
    """All edit distances over all references' tokens; 0 is perfect, and it may exceed 1.

    Raises `UserError` where there is no pair, the counts differ, or the references are all empty.
    """
    paired("The error rate", references, sequences)
    wanted = [list(reference) for reference in references]
    errors = sum(edit_distance(*pair) for pair in zip(wanted, sequences, strict=True))
    return _per_token(errors, sum(map(len, wanted)))


def word_error_rate(references: Sequence[str], texts: Sequence[str]) -> float:
    """The token error rate of texts' words, which end at whitespace and are compared as they are.

    Raises `UserError` where there is no text, the counts differ, or no reference has a word.
    """
    paired("The word error rate", references, texts)
    return token_error_rate(*([text.split() for text in each] for each in (references, texts)))


def pronunciation_errors(
    references: Sequence[Sequence[Tokens]], pronunciations: Sequence[Tokens]
) -> PronunciationErrors:
    """Word and phoneme error rates beside a dictionary that may have several right answers.

    A word is wrong if it equals none of its references (as CMUSphinx's g2p-seq2seq counts). Its
    phoneme errors are the edit distance to the nearest, and all words' are taken over the lengths
    of the nearest; of several as near, the longest, so that the dictionary's order says nothing.

    references: of each word all its right pronunciations, one or more.
    pronunciations: of each word what a model says.

    Raises `UserError` where there is no word, one has no reference, the counts differ, or the
    nearest references are all empty.
    """
    paired("The pronunciation error rate", references, pronunciations)
    wrong, errors, phonemes = 0, 0, 0
    for place, (right, said) in enumerate(zip(references, pronunciations, strict=True)):
        if not len(right):
            raise UserError(
                f"Word {place} has no right pronunciation: give it one or leave it out."
            )
        said, known = list(said), [list(one) for one in right]
        distance, shortness = min((edit_distance(one, said), -len(one)) for one in known)
        wrong += distance > 0
        errors += distance
        phonemes -= shortness
    return PronunciationErrors(wrong / len(references), _per_token(errors, phonemes))


def _per_token(errors: int, tokens: int) -> float:
    if not tokens:
        raise UserError("An error rate needs a reference that isn't empty: give one.")
    return errors / tokens

"""How near translations come to what people wrote: BLEU and chrF, as sacrebleu works them out."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any, NamedTuple

from sacrebleu.metrics import BLEU, CHRF

from jaxgen.errors import UserError
from jaxgen.evaluation.pairs import paired

TOKENIZERS = ("13a", "intl", "zh", "char", "none")  # sacrebleu's others need more packages

References = Sequence[Sequence[str]]


class SignedScore(NamedTuple):
    """score: of the whole corpus, in 0 .. 100; signature: sacrebleu's, to be printed beside it.

    Two scores can be compared only where their signatures agree (Post 2018).
    """

    score: float
    signature: str


def bleu(
    references: References,
    translations: Sequence[str],
    tokenize: str = "13a",
    lowercase: bool = False,
) -> SignedScore:
    """Corpus BLEU of n-grams up to 4 (Papineni et al. 2002), as of sacrebleu's command line.

    references: of each translation all that it may be, one or more.
    translations: plain text, neither cut into tokens nor lowered.
    tokenize: one of `TOKENIZERS`: "13a" is WMT's, "zh" is for Chinese, "char" is for what has no
        spaces, "none" leaves texts that are tokenized already.

    Raises `UserError` where there is no translation, one has no reference, the counts differ, or
    there is no such tokenizer.
    """
    if tokenize not in TOKENIZERS:
        raise UserError(f"BLEU has no tokenizer {tokenize!r}: take one of {', '.join(TOKENIZERS)}.")
    metric = BLEU(tokenize=tokenize, lowercase=lowercase)
    score = metric.corpus_score(translations, _streams("BLEU", references, translations)).score
    return SignedScore(score, metric.get_signature().format())


def chrf(
    references: References,
    translations: Sequence[str],
    word_order: int = 0,
    lowercase: bool = False,
) -> SignedScore:
    """Corpus chrF, the F2 of character n-grams up to 6 (Popović 2015), spaces left out.

    references, translations: as for `bleu`.
    word_order: longest n-gram of words that counts too; 2 is chrF++ (Popović 2017).

    Raises `UserError` where there is no translation, one has no reference, the counts differ, or
    `word_order` is negative.
    """
    if word_order < 0:
        raise UserError(f"word_order has to be at least 0, not {word_order}.")
    metric = CHRF(word_order=word_order, lowercase=lowercase)
    score = metric.corpus_score(translations, _streams("chrF", references, translations)).score
    return SignedScore(score, metric.get_signature().format())


def _streams(score: str, references: References, translations: Sequence[str]) -> list[list[Any]]:
    """References as sacrebleu takes them: the first of each, the second or None, ..."""
    paired(score, references, translations)
    for place, each in enumerate(references):
        # A lone text would pass for a list of references of one letter each.
        if isinstance(each, str) or not each:
            raise UserError(
                f"{score} needs a list of at least one reference for each translation, and number "
                f"{place} has {each!r}."
            )
    return [list(stream) for stream in zip_longest(*references)]


def translation_scores(
    references: Sequence[Sequence[str]], translations: Sequence[str]
) -> dict[str, float]:
    """BLEU and chrF by name, as they are published by default, for an evaluation to return."""
    return {
        "bleu": bleu(references, translations).score,
        "chrf": chrf(references, translations).score,
    }

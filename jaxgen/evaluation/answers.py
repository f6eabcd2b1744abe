"""Answers to questions of several kinds, beside the right ones."""

from __future__ import annotations

from collections.abc import Sequence

from jaxgen.evaluation.pairs import paired
from jaxgen.evaluation.summary import rouge


def answer_scores(
    kinds: Sequence[str], right: Sequence[str], given: Sequence[str]
) -> dict[str, float]:
    """Of each kind the share of answers that are right to the letter, and the mean ROUGE-L.

    As "<kind>_exact" and "<kind>_rouge_l", in 0 .. 1, words by their stems.

    Raises `UserError` where there is no answer, or the counts differ.
    """
    paired("Answers", right, given)
    scores = {}
    for kind in sorted(set(kinds)):
        both = [
            (wanted, told)
            for of, wanted, told in zip(kinds, right, given, strict=True)
            if of == kind
        ]
        scores[f"{kind}_exact"] = sum(wanted == told for wanted, told in both) / len(both)
        wanted, told = zip(*both, strict=True)
        scores[f"{kind}_rouge_l"] = rouge(wanted, told, stem=True)["rouge_l"]
    return scores

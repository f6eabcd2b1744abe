"""How much of a reference summary a summary holds: ROUGE, as Google's rouge-score works it out."""

from __future__ import annotations

from collections.abc import Sequence

from jaxgen.evaluation.pairs import paired


def rouge(
    references: Sequence[str], summaries: Sequence[str], stem: bool = False
) -> dict[str, float]:
    """Means over the pairs of ROUGE's F-measures (Lin 2004), in 0 .. 1.

    "rouge_1" and "rouge_2" count shared words and pairs of words, "rouge_l" the longest common
    subsequence of words, "rouge_l_sum" those of sentences, one a line: put a newline between them.

    Words are runs of a-z and 0-9 in lower case: any other letter ends one, so that texts in other
    scripts score 0.

    stem: takes English words by their stems (Porter 1980), as papers mostly do.

    Raises `UserError` where there is no pair, or the counts differ.
    """
    # It imports NLTK, which takes seconds.
    from rouge_score.rouge_scorer import RougeScorer
    from rouge_score.tokenizers import DefaultTokenizer

    paired("ROUGE", references, summaries)
    names = {"rouge1": "rouge_1", "rouge2": "rouge_2", "rougeL": "rouge_l"}
    names["rougeLsum"] = "rouge_l_sum"
    scorer = RougeScorer([*names], tokenizer=DefaultTokenizer(stem))
    found = [scorer.score(*pair) for pair in zip(references, summaries, strict=True)]
    return {
        name: sum(float(each[theirs].fmeasure) for each in found) / len(found)
        for theirs, name in names.items()
    }

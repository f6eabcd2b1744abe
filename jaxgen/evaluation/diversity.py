"""How much samples of text repeat themselves and each other, by their n-grams.

A sample is a text, whose words end at whitespace, or a sequence of tokens, arrays too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence

from sacrebleu.metrics import BLEU

from jaxgen.errors import UserError, at_least_one
from jaxgen.evaluation.neighbours import enough

Sample = str | Iterable[Hashable]
Ngram = tuple[Hashable, ...]


def distinct(samples: Sequence[Sample], order: int) -> float:
    """Distinct-n: different n-grams of all samples together, over their tokens, in 0 .. 1.

    Li et al. 2016 ("A diversity-promoting objective function"), who divide by tokens, not by
    n-grams. It falls as samples are added: compare equally many, about as long.

    order: n, the tokens in an n-gram.

    Raises `UserError` where there is no sample or no token, or `order` is below 1.
    """
    enough("Distinct n-grams", 1, samples=len(samples))
    at_least_one(order=order)
    split = [_tokens(sample) for sample in samples]
    if not (total := sum(map(len, split))):
        raise UserError("Distinct n-grams need a sample that isn't empty: give one.")
    return len({ngram for tokens in split for ngram in _ngrams(tokens, order)}) / total


def self_bleu(samples: Sequence[Sample], order: int = 4) -> float:
    """The mean BLEU of each sample with all others as its references, in 0 .. 100.

    Zhu et al. 2018 (Texygen), by sacrebleu's sentence BLEU: n-grams up to `order`, or the
    sample's length if it is shorter, counts of 0 smoothed exponentially. 100 where all samples
    are the same; it grows with their number. The time grows with the tokens, not their square.

    Raises `UserError` where there are fewer than 2 samples, or `order` is below 1.
    """
    enough("Self-BLEU", 2, samples=len(samples))
    at_least_one(order=order)
    split = [_tokens(sample) for sample in samples]
    counted = [
        Counter(ngram for n in range(1, order + 1) for ngram in _ngrams(tokens, n))
        for tokens in split
    ]
    # BLEU asks how often an n-gram occurs in that reference that has it most often. Of all but
    # one sample that is the first or the second of these.
    most: dict[Ngram, tuple[int, int]] = {}
    for counts in counted:
        for ngram, count in counts.items():
            first, second = most.get(ngram, (0, 0))
            most[ngram] = (max(first, count), max(second, min(first, count)))
    lengths = Counter(map(len, split))
    scores = []
    for tokens, counts in zip(split, counted, strict=True):
        correct, total = [0] * order, [0] * order
        for ngram, count in counts.items():
            first, second = most[ngram]
            correct[len(ngram) - 1] += min(count, second if count == first else first)
            total[len(ngram) - 1] += count
        length = len(tokens)
        others = [n for n, times in lengths.items() if times - (n == length)]
        nearest = min(others, key=lambda n: (abs(n - length), n))
        score = BLEU.compute_bleu(
            correct, total, length, nearest, "exp", effective_order=True, max_ngram_order=order
        )
        scores.append(score.score)
    return sum(scores) / len(scores)


def _tokens(sample: Sample) -> list[Hashable]:
    return list(sample.split() if isinstance(sample, str) else sample)


def _ngrams(tokens: list[Hashable], order: int) -> Iterable[Ngram]:
    return zip(*(tokens[start:] for start in range(order)), strict=False)

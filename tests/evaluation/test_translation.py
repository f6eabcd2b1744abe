"""BLEU and chrF against their formulas, on sentences whose n-grams can be counted by eye."""

import math

import pytest
import sacrebleu

from jaxgen.errors import UserError
from jaxgen.evaluation.translation import TOKENIZERS, bleu, chrf

CAT = "The cat is on the mat."


def test_bleu_on_a_worked_example():
    # "the" is counted as often as some reference has it (Papineni et al.'s example 2), and the
    # translation has 7 words, as near to one reference's 7 as can be.
    references = [["The cat is on the mat today", "There is a cat on the mat"]]
    found = bleu(references, ["the cat the cat on the mat"])
    # Words: the 1 + cat 1 + on 1 + mat 1 of 7, as neither has two "the" in lower case. Pairs: "the
    # mat", "on the", "cat on" of 6. Threes: "cat on the", "on the mat" of 5. Fours: "cat on the
    # mat" of 4.
    assert found.score == pytest.approx(100 * (4 / 7 * 3 / 6 * 2 / 5 * 1 / 4) ** 0.25)
    lowered = bleu(references, ["the cat the cat on the mat"], lowercase=True)
    # Now a reference has two "the", and "the cat" occurs in one.
    assert lowered.score == pytest.approx(100 * (5 / 7 * 4 / 6 * 2 / 5 * 1 / 4) ** 0.25)


def test_short_translations_are_penalized():
    found = bleu([[CAT]], ["The cat is on the"])
    assert found.score == pytest.approx(100 * math.exp(1 - 7 / 5))  # the full stop is a token


def test_counts_are_of_the_corpus_not_of_its_sentences():
    references = [["a b c d e"], ["f g h i j"]]
    found = bleu(references, ["a b c d e", "f g x i j"])
    assert found.score == pytest.approx(100 * (9 / 10 * 6 / 8 * 3 / 6 * 2 / 4) ** 0.25)


def test_chrf_on_a_worked_example():
    # Characters without spaces: 3 of 4, pairs 2 of 3, threes 1 of 2, fours 0 of 1.
    found = chrf([["ab cd"]], ["abc x"])
    share = (3 / 4 + 2 / 3 + 1 / 2 + 0) / 4
    assert found.score == pytest.approx(100 * share)  # F2 of the same precision and recall
    # chrF++ adds words, 0 of 2, and pairs of words, 0 of 1.
    assert chrf([["ab cd"]], ["abc x"], word_order=2).score == pytest.approx(100 * share * 4 / 6)


def test_recall_counts_twice_in_chrf():
    # "ab" for "abcd": precision 1 of 2 and of 1; recall 2 of 4 and 1 of 3, longer n-grams left out.
    precision, recall = 1, (2 / 4 + 1 / 3) / 2
    found = chrf([["abcd"]], ["ab"])
    assert found.score == pytest.approx(100 * 5 * precision * recall / (4 * precision + recall))


@pytest.mark.parametrize("score", [bleu, chrf])
def test_what_is_right_scores_100_by_any_reference(score):
    references = [["Something else.", CAT], ["Two birds sat there."]]
    found = score(references, [CAT, "Two birds sat there."])
    assert found.score == pytest.approx(100)
    assert score(references, ["zzz", "zzz"]).score == 0
    assert "nrefs:var" in found.signature


def test_signatures_say_what_was_done():
    version = f"version:{sacrebleu.__version__}"
    references, said = [[CAT, CAT]], [CAT]
    assert bleu(references, said).signature == (
        f"nrefs:2|case:mixed|eff:no|tok:13a|smooth:exp|{version}"
    )
    assert "case:lc" in bleu(references, said, lowercase=True).signature
    assert chrf(references, said, word_order=2).signature == (
        f"nrefs:2|case:mixed|eff:yes|nc:6|nw:2|space:no|{version}"
    )


@pytest.mark.parametrize("tokenize", TOKENIZERS)
def test_every_tokenizer_is_there(tokenize):
    found = bleu([["猫 在 垫子 上 。"]], ["猫 在 垫子 上 。"], tokenize)
    assert found.score == pytest.approx(100) and f"tok:{tokenize}" in found.signature


@pytest.mark.parametrize("score", [bleu, chrf])
@pytest.mark.parametrize(
    ("references", "translations", "message"),
    [
        ([], [], "was given no text"),
        ([[CAT]], [CAT, CAT], "1 references for 2 texts"),
        ([[CAT], []], [CAT, CAT], r"number 1 has \[\]"),
        ([CAT], [CAT], "a list of at least one reference for each translation, and number 0 has"),
    ],
)
def test_mistakes_are_named(score, references, translations, message):
    with pytest.raises(UserError, match=message):
        score(references, translations)


def test_settings_that_are_none_are_named():
    with pytest.raises(UserError, match="no tokenizer 'moses': take one of 13a, intl"):
        bleu([[CAT]], [CAT], "moses")
    with pytest.raises(UserError, match="word_order has to be at least 0, not -1"):
        chrf([[CAT]], [CAT], word_order=-1)

"""Answers are compared with those to the same question, kind by kind."""

import pytest

from jaxgen.errors import UserError
from jaxgen.evaluation.answers import answer_scores


def test_each_kind_has_its_own_scores():
    kinds = ["list", "deed", "list", "deed"]
    right = ["`a` and `b`.", "Returns the size.", "None.", "Opens it."]
    given = ["`a` and `b`.", "Return a size.", "`a`.", "Opens it."]
    found = answer_scores(kinds, right, given)
    assert found["list_exact"] == 0.5 and found["deed_exact"] == 0.5
    assert found["deed_rouge_l"] == pytest.approx((2 / 3 + 1) / 2)  # stems: return, size
    with pytest.raises(UserError, match="4 references for 3"):
        answer_scores(kinds, right, given[:3])

"""The corpus that is on every machine, and what a run keeps of a corpus."""

import dataclasses

import numpy as np
import pytest

from jaxgen.data.subwords import SubwordTokenizer
from jaxgen.data.trial_corpus import trial_corpus
from jaxgen.errors import UserError


def test_it_is_documents_with_an_end_after_each():
    corpus = trial_corpus()
    end = corpus.tokenizer.special_token("eos")
    documents = (corpus.train == end).sum(), (corpus.validation == end).sum()
    assert documents[0] == pytest.approx(9 * documents[1], abs=9) and documents[1] > 5
    assert corpus.train[-1] == end and len(corpus.train) > 200_000
    assert "object" in corpus.tokenizer.decode(corpus.train[:5000])


def test_what_a_run_keeps_tells_whether_the_corpus_is_the_same():
    corpus = trial_corpus()
    kept = corpus.kept()
    assert SubwordTokenizer.from_files(kept).fingerprint == corpus.tokenizer.fingerprint
    assert corpus.unchanged(kept) is corpus
    shorter = dataclasses.replace(corpus, train=np.asarray(corpus.train[:-1]))
    with pytest.raises(UserError, match="the corpus has changed since this run began"):
        shorter.unchanged(kept)

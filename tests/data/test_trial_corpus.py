"""The corpus that is on every machine, and what a run keeps of a corpus."""

import dataclasses

import numpy as np
import pytest

from jaxgen.data.subword_training import train_byte_pairs
from jaxgen.data.subwords import SubwordTokenizer
from jaxgen.data.trial_corpus import chosen_corpus, trial_corpus
from jaxgen.errors import UserError


def test_it_is_documents_with_an_end_after_each():
    corpus = trial_corpus()
    end = corpus.tokenizer.special_token("eos")
    assert [(part == end).sum() for part in (corpus.train, corpus.validation)] == [38, 2]
    assert corpus.train[-1] == end and len(corpus.train) > 20_000
    assert "object" in corpus.tokenizer.decode(corpus.train[:5000])


def test_what_a_run_keeps_tells_whether_the_corpus_is_the_same():
    corpus = trial_corpus()
    kept = corpus.kept(304, "a model")
    assert SubwordTokenizer.from_files(kept).fingerprint == corpus.tokenizer.fingerprint
    assert corpus.unchanged(kept) is corpus
    shorter = dataclasses.replace(corpus, train=np.asarray(corpus.train[:-1]))
    with pytest.raises(UserError, match="the corpus has changed since this run began"):
        shorter.unchanged(kept)


def test_what_does_not_go_with_the_model_is_refused(tmp_path):
    corpus = chosen_corpus("", trial=True)
    with pytest.raises(UserError, match=r"300 tokens and isn't the one of tiny, whose .* 200"):
        corpus.kept(200, "tiny")
    corpus.tokenizer.save(tmp_path / "same")
    assert corpus.kept(300, "tiny", str(tmp_path / "same")).keys() == corpus.kept(300, "").keys()
    train_byte_pairs(["another text"], 290).save(tmp_path / "other")
    with pytest.raises(UserError, match=r"isn't the one of the weights in .*other"):
        corpus.kept(300, "tiny", str(tmp_path / "other"))
    with pytest.raises(UserError, match="nothing to learn: give --tokens DIRECTORY"):
        chosen_corpus("", trial=False)


def test_its_sources_are_a_training_and_two_looks_at_what_was_held_out():
    corpus = trial_corpus()
    sources = corpus.sources(8, batch_size=4, seed=0)
    assert sources["train"].batch(0, slice(0, 4))["tokens"].shape == (4, 9)
    assert len(sources["windows"]) == len(corpus.validation) - 8
    assert len(sources["blocks"]) == -(-(len(corpus.validation) - 1) // 8)

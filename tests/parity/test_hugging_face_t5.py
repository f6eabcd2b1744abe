"""T5, 1.0 and 1.1: our logits and transformers', both ways, 1e-4."""

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

VOCABULARY = 48
SIZES = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "d_kv": 6,
    "d_ff": 40,
    "num_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 10,
}
generator = np.random.default_rng(0)
SOURCE = generator.integers(VOCABULARY, size=(3, 14))
TOKENS = generator.integers(VOCABULARY, size=(3, 12))
MASK = (np.arange(14)[None, :] < np.array([14, 9, 4])[:, None]).astype(np.int64)
AS_TORCH = {
    "input_ids": torch.tensor(SOURCE),
    "attention_mask": torch.tensor(MASK),
    "decoder_input_ids": torch.tensor(TOKENS),
}
EVERYWHERE = np.ones_like(TOKENS)


@partial(jax.jit, static_argnums=0)
def logits(network, params, source, tokens, mask):
    return network.apply({"params": params}, source, tokens, mask)


MODELS = {
    "1.0": {},
    "1.0, gated-silu, fewer decoder layers": {
        "feed_forward_proj": "gated-silu",
        "num_decoder_layers": 1,
    },
    "1.1": {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
}


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_theirs_both_ways(name, tmp_path):
    config = transformers.T5Config(**SIZES, **MODELS[name])
    theirs = transformers.T5ForConditionalGeneration(config)
    untied = name == "1.1"
    if untied:
        # transformers 5 ties whatever it makes; a file's own head stays its own.
        theirs.lm_head.weight = torch.nn.Parameter(torch.zeros(VOCABULARY, 32))
    theirs = randomized(theirs)
    theirs.save_pretrained(tmp_path / "theirs")
    network, params, _, config = hugging_face.load(tmp_path / "theirs")
    assert network.tied == (not untied) and (network.scales.logits == 1) == untied
    ours = partial(logits, network)
    assert_equal(ours(params, SOURCE, TOKENS, MASK), theirs(**AS_TORCH).logits, EVERYWHERE)

    other = random_params(network)
    for given in (config, None):
        place = tmp_path / f"ours {given is None}"
        hugging_face.save(place, network, other, config=given)
        again = opened(transformers.T5ForConditionalGeneration, place)
        assert_equal(ours(other, SOURCE, TOKENS, MASK), again(**AS_TORCH).logits, EVERYWHERE)
        assert again.generate(torch.tensor(SOURCE[:1]), max_new_tokens=2).shape[0] == 1

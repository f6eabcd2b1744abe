"""The known transformers have as many parameters as their authors publish, and their shapes."""

import math

import jax
import jax.numpy as jnp
import pytest
from flax.core import meta

from jaxgen.families.autoregressive.architectures import (
    bert,
    gpt2,
    gpt3,
    llama,
    mixtral,
    qwen2,
    qwen3,
)
from jaxgen.families.autoregressive.encoder_decoder_architectures import t5, transformer_2017

TOKENS = jax.ShapeDtypeStruct((1, 4), jnp.int32)

# As counted in the released weights, each tensor once.
DECODERS = {
    "GPT-2": (gpt2(), 124_439_808),
    "GPT-2 XL": (gpt2(width=1600, layers=48, heads=25), 1_557_611_200),
    "Llama 3 8B": (llama(128_256, 4096, 32, 32, 8, 14_336), 8_030_261_248),
    "Qwen 2.5 0.5B": (qwen2(151_936, 896, 24, 14, 2, 4864, tied=True), 494_032_768),
    "Qwen 3 8B": (qwen3(151_936, 4096, 36, 32, 8, 12_288), 8_190_735_360),
    "Mixtral 8x7B": (mixtral(), 46_702_792_704),
}


def count(network, *inputs):
    shapes = jax.eval_shape(network.init, jax.random.key(0), *inputs)["params"]
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(meta.unbox(shapes)))


@pytest.mark.parametrize("name", DECODERS)
def test_decoders_have_as_many_parameters_as_published(name):
    network, expected = DECODERS[name]
    assert count(network, TOKENS) == expected


def test_gpt3_is_as_large_as_its_paper_says():
    """Table 2.1 rounds: 125M and 175B; two of its sizes have heads that don't fill the width."""
    assert count(gpt3(768, 12, 12, 64), TOKENS) == pytest.approx(125e6, rel=0.01)
    assert count(gpt3(12_288, 96, 96, 128), TOKENS) == pytest.approx(175e9, rel=0.01)
    assert count(gpt3(5140, 40, 40, 128), TOKENS) == pytest.approx(13e9, rel=0.02)


def test_bert_is_as_large_as_published():
    """BERT-base without its head for masked tokens, and that head: a layer, a norm, biases."""
    head = (768 * 768 + 768) + 2 * 768 + 30_522
    assert count(bert(), TOKENS) == 109_482_240 + head


def test_encoder_decoders_are_as_large_as_published():
    assert count(t5(32_128, 512, 6, 8, 64, 2048), TOKENS, TOKENS) == 60_506_624
    base = t5(32_128, 768, 12, 12, 64, 2048, gated=True, tied=False)
    assert count(base, TOKENS, TOKENS) == 247_577_856
    # "65 million" with a shared vocabulary of about 37,000 (Vaswani et al. 2017, table 3).
    assert count(transformer_2017(37_000), TOKENS, TOKENS) == pytest.approx(65e6, rel=0.05)

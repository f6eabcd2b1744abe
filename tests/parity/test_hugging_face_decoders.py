"""GPT-2, Llama, Mistral, Qwen and Mixtral: our logits and transformers', both ways, 1e-4."""

from functools import partial

import jax
import pytest
from hugging_face_models import (
    assert_equal,
    left_padded,
    opened,
    random_params,
    randomized,
    torch,
    transformers,
)

from jaxgen.interop import hugging_face
from jaxgen.parallel.mesh import MeshShape, make_mesh

VOCABULARY = 48
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = SIZES | {"num_key_value_heads": 2}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 100.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 100.0,
    "factor": 4.0,
    "original_max_position_embeddings": 16,
}
LINEAR = {"rope_type": "linear", "rope_theta": 100.0, "factor": 4.0}


def gpt2(**changes):
    sizes = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
    sizes |= {"bos_token_id": 1, "eos_token_id": 2}
    config = transformers.GPT2Config(**sizes, **changes)
    return transformers.GPT2LMHeadModel(config)


def llama(rope=None, **changes):
    config = transformers.LlamaConfig(**GROUPED | changes, rope_parameters=rope)
    return transformers.LlamaForCausalLM(config)


def mistral():
    config = transformers.MistralConfig(**GROUPED, sliding_window=4)
    return transformers.MistralForCausalLM(config)


def qwen2():
    return transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**GROUPED))


def qwen3(**changes):
    config = transformers.Qwen3Config(**GROUPED, head_dim=16, **changes)
    return transformers.Qwen3ForCausalLM(config)


def mixtral(**changes):
    config = transformers.MixtralConfig(**GROUPED, num_local_experts=4, **changes)
    return transformers.MixtralForCausalLM(config)


MODELS = {
    "gpt2": gpt2,
    "gpt2, other activation, width and scale": lambda: gpt2(
        activation_function="relu", n_inner=24, scale_attn_weights=False, layer_norm_epsilon=1e-3
    ),
    "gpt2, untied": lambda: gpt2(tie_word_embeddings=False),
    "llama 3.1's rotary positions, grouped": lambda: llama(LLAMA3),
    "llama, tied, biases": lambda: llama(
        tie_word_embeddings=True, attention_bias=True, mlp_bias=True, head_dim=6
    ),
    "llama, linear": lambda: llama(LINEAR),
    "llama, yarn": lambda: llama(YARN),
    "mistral": mistral,
    "qwen2": qwen2,
    "qwen3, tied": lambda: qwen3(tie_word_embeddings=True),
    "qwen3, untied": qwen3,
    "mixtral": mixtral,
    "mixtral, windowed": lambda: mixtral(sliding_window=4),
}


def network_logits(network, params, tokens, positions, mask):
    return network.apply({"params": params}, tokens, positions, mask)


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_theirs_both_ways(name, tmp_path):
    theirs = randomized(MODELS[name]())
    theirs.save_pretrained(tmp_path / "theirs")
    network, params, tokenizer, config = hugging_face.load(tmp_path / "theirs")
    assert tokenizer is None and config["vocab_size"] == VOCABULARY
    tokens, mask, positions = left_padded(VOCABULARY)
    as_torch = {
        "input_ids": torch.tensor(tokens),
        "attention_mask": torch.tensor(mask),
        "position_ids": torch.tensor(positions),
    }
    ours = partial(jax.jit(network_logits, static_argnums=0), network)
    assert_equal(ours(params, tokens, positions, mask), theirs(**as_torch).logits, mask)

    other = random_params(network)
    hugging_face.save(tmp_path / "ours", network, other, config=config)
    again = opened(type(theirs), tmp_path / "ours")
    assert_equal(ours(other, tokens, positions, mask), again(**as_torch).logits, mask)
    # And without what their own file said besides.
    hugging_face.save(tmp_path / "plain", network, other)
    again = opened(transformers.AutoModelForCausalLM, tmp_path / "plain")
    assert type(again) is type(theirs)
    assert_equal(ours(other, tokens, positions, mask), again(**as_torch).logits, mask)


@pytest.mark.parametrize("name", ["llama 3.1's rotary positions, grouped", "mixtral"])
def test_a_checkpoint_of_many_files_over_eight_devices(name, tmp_path):
    theirs = randomized(MODELS[name]())
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="10KB")
    assert len(list((tmp_path / "theirs").glob("*.safetensors"))) > 3
    mesh = make_mesh(MeshShape(data=2, fsdp=2, tensor=2))
    network, params, _, _ = hugging_face.load(tmp_path / "theirs", mesh)
    tokens, mask, positions = left_padded(VOCABULARY, rows=4, time=10)
    with jax.set_mesh(mesh):
        ours = jax.jit(network_logits, static_argnums=0)(network, params, tokens, positions, mask)
    logits = theirs(
        torch.tensor(tokens), torch.tensor(mask), position_ids=torch.tensor(positions)
    ).logits
    assert_equal(ours, logits, mask)
    hugging_face.save(tmp_path / "ours", network, params, shard_bytes=10_000)
    again = opened(type(theirs), tmp_path / "ours").state_dict()
    for key, value in theirs.state_dict().items():
        assert torch.equal(again[key], value), key


def test_half_precision_files(tmp_path):
    theirs = randomized(llama(LLAMA3)).to(torch.bfloat16)
    theirs.save_pretrained(tmp_path / "theirs")
    network, params, _, _ = hugging_face.load(tmp_path / "theirs")
    tokens, mask, positions = left_padded(VOCABULARY)
    ours = jax.jit(network_logits, static_argnums=0)(network, params, tokens, positions, mask)
    as_torch = (torch.tensor(tokens), torch.tensor(mask))
    # Read anew: a model made float32 again keeps rotary frequencies that were rounded.
    wide = opened(type(theirs), tmp_path / "theirs", dtype=torch.float32)
    logits = wide(*as_torch, position_ids=torch.tensor(positions)).logits
    assert_equal(ours, logits, mask)


@pytest.mark.parametrize("kind", ["GPT2Model", "LlamaModel"])
def test_bare_models_lack_the_prefix(kind, tmp_path):
    whole = gpt2() if kind == "GPT2Model" else llama(LLAMA3, tie_word_embeddings=True)
    whole = randomized(whole)
    bare = whole.transformer if kind == "GPT2Model" else whole.model
    bare.save_pretrained(tmp_path / "bare")
    network, params, _, _ = hugging_face.load(tmp_path / "bare")
    tokens, mask, positions = left_padded(VOCABULARY)
    ours = jax.jit(network_logits, static_argnums=0)(network, params, tokens, positions, mask)
    as_torch = (torch.tensor(tokens), torch.tensor(mask))
    if kind == "LlamaModel":
        logits = whole(*as_torch, position_ids=torch.tensor(positions)).logits
    else:
        logits = whole(
            torch.tensor(tokens),
            attention_mask=torch.tensor(mask),
            position_ids=torch.tensor(positions),
        ).logits
    assert_equal(ours, logits, mask)

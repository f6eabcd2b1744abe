"""Published configs, and what is refused by name; no PyTorch."""

import json
import math
import shutil
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxgen.data.special_tokens import GPT2_SPECIAL, SpecialTokens
from jaxgen.data.subword_training import train_byte_pairs
from jaxgen.errors import UserError
from jaxgen.families.autoregressive.architectures import bert, gpt2, gpt3, llama, mixtral
from jaxgen.families.autoregressive.encoder_decoder_architectures import t5, transformer_2017
from jaxgen.families.autoregressive.transformer import Scales
from jaxgen.interop import hugging_face
from jaxgen.interop.hugging_face import ARCHITECTURES, abstract_params, load, save
from jaxgen.interop.weights import tensors_of
from jaxgen.nn.expert_dispatch import within_capacity
from jaxgen.nn.mlp import MLP
from jaxgen.nn.position_bias import alibi
from jaxgen.nn.rotary import by_wavelength, interpolated, ntk_aware, rotary_angles, yarn

# What the files of these models say, as far as it matters, and how many numbers they hold.
GPT2 = {"model_type": "gpt2", "vocab_size": 50257, "n_embd": 768, "n_layer": 12, "n_head": 12}
GPT2 |= {"n_positions": 1024, "activation_function": "gelu_new", "eos_token_id": 50256}
LLAMA3 = {
    "model_type": "llama",
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "rope_scaling": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
}
QWEN3 = {
    "model_type": "qwen3",
    "vocab_size": 151936,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "rope_theta": 1000000,
    "rope_scaling": None,
    "use_sliding_window": False,
    "tie_word_embeddings": True,
}
MIXTRAL = LLAMA3 | {"model_type": "mixtral", "vocab_size": 32000, "rope_scaling": None}
MIXTRAL |= {"num_local_experts": 8, "num_experts_per_tok": 2, "sliding_window": None}
BERT = {
    "model_type": "bert",
    "architectures": ["BertModel"],
    "vocab_size": 30522,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
}
T5 = {"model_type": "t5", "vocab_size": 32128, "d_model": 512, "d_kv": 64, "d_ff": 2048}
T5 |= {"num_layers": 6, "num_heads": 8}
T5_1_1 = T5 | {"d_ff": 1024, "num_layers": 8, "num_heads": 6, "feed_forward_proj": "gated-gelu"}
T5_1_1 |= {"tie_word_embeddings": False}


def network_of(config):
    return ARCHITECTURES[config["model_type"]].network_of(config, None)


@pytest.mark.parametrize(
    "config, numbers, tensors",
    [
        (GPT2, 124_439_808, 148),
        (LLAMA3, 8_030_261_248, 291),
        (QWEN3, 596_049_920, 310),
        (MIXTRAL, 46_702_792_704, 995),
        (BERT, 109_482_240, 199),
        (T5_1_1, 76_961_152, 190),
    ],
    ids=["GPT-2", "Llama 3.1 8B", "Qwen3 0.6B", "Mixtral 8x7B", "BERT base", "T5 1.1 small"],
)
def test_published_models_have_their_published_sizes(config, numbers, tensors):
    network = network_of(config)
    params = abstract_params(network, None, jnp.bfloat16)
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params)) == numbers
    theirs = tensors_of(params, ARCHITECTURES[config["model_type"]].table(network))
    assert len({each.name for each in theirs}) == len(theirs) == tensors
    assert sum(math.prod(each.shape) for each in theirs) == numbers
    again = ARCHITECTURES[config["model_type"]].config_of(network)
    for name, value in config.items():
        if name in again and name != "rope_scaling":
            assert again[name] == value, name


@pytest.mark.parametrize(
    "scaling, said",
    [
        (None, {"rope_type": "default"}),
        (interpolated(4.0), {"rope_type": "linear", "factor": 4.0}),
        (by_wavelength(8.0), LLAMA3["rope_scaling"]),
        (
            yarn(4.0, 32768, base=1e4),
            {
                "rope_type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 32768,
                "beta_slow": 1.0,
                "beta_fast": 32.0,
            },
        ),
    ],
)
def test_rotary_scalings_out_and_in(scaling, said):
    network = llama(24, 16, 1, 4, 2, 20, rotary_base=1e4, rotary_scaling=scaling)
    config = hugging_face.llama.config_of(network)
    assert config["rope_parameters"] == {**said, "rope_theta": 1e4}
    assert config["rope_scaling"] == (None if scaling is None else said)
    older = {name: value for name, value in config.items() if name != "rope_parameters"}
    positions = jnp.arange(50)[None]
    for given in (config, older):
        rotary = network_of(given).attention.keywords["rotary"]
        expected = rotary_angles(positions, 8, 1e4, scaling)
        np.testing.assert_array_equal(rotary(positions, 8), expected)


SMALL_GPT2 = GPT2 | {"n_embd": 16, "n_layer": 1, "n_head": 4, "vocab_size": 300, "n_positions": 8}
SMALL_GPT2 |= {"eos_token_id": 0}


@pytest.mark.parametrize(
    "config, said",
    [
        (GPT2 | {"n_head": 7}, "n_head is 7, which doesn't divide the width 768"),
        (LLAMA3 | {"num_attention_heads": 7}, "num_attention_heads is 7, which doesn't divide"),
        (
            LLAMA3 | {"num_key_value_heads": 5},
            "num_key_value_heads is 5, which doesn't divide the 32",
        ),
        (BERT | {"num_attention_heads": 5}, "doesn't divide the width 768"),
        ({k: v for k, v in GPT2.items() if k != "n_embd"}, "has to say n_embd, a positive number"),
        (GPT2 | {"n_layer": "12"}, "has to say n_layer, .* says '12'"),
        (
            GPT2 | {"activation_function": "mish"},
            "activation_function = 'mish'; here there are gelu",
        ),
        (
            GPT2 | {"scale_attn_by_inverse_layer_idx": True},
            "scale_attn_by_inverse_layer_idx = True",
        ),
        (GPT2 | {"add_cross_attention": True}, "add_cross_attention = True"),
        (QWEN3 | {"use_sliding_window": True}, "use_sliding_window = True"),
        (QWEN3 | {"layer_types": ["full_attention", "sliding_attention"]}, "a sliding window"),
        (LLAMA3 | {"rope_scaling": {"type": "dynamic", "factor": 2}}, "by .*dynamic.*isn't read"),
        (LLAMA3 | {"rope_scaling": {"rope_type": "llama3", "factor": 2}}, "say all numbers of its"),
        (LLAMA3 | {"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5"),
        (BERT | {"position_embedding_type": "relative_key"}, "= 'relative_key'"),
        (BERT | {"is_decoder": True}, "is_decoder = True"),
        (LLAMA3 | {"rms_norm_eps": "a"}, "has to say rms_norm_eps, a number, and says 'a'"),
        (LLAMA3 | {"rope_theta": "x"}, "has to say rope_theta, a number"),
        (LLAMA3 | {"rope_parameters": [1]}, r"rope_parameters, an object, and says \[1\]"),
        (LLAMA3 | {"rope_scaling": {"type": "yarn", "factor": 2}}, "say all numbers of its yarn"),
        (T5 | {"feed_forward_proj": "gated-mish"}, "feed_forward_proj = 'gated-mish'"),
    ],
)
def test_configs_that_ask_for_more_are_refused(config, said):
    with pytest.raises(UserError, match=said):
        network_of(config)


def in_attention(network, **changes):
    return network.clone(attention=partial(network.attention, **changes))


SMALL = llama(24, 16, 2, 4, 2, 20)
MIXTURE = mixtral(24, 16, 2, 4, 2, 20, experts=4, chosen=2)


@pytest.mark.parametrize(
    "network, said",
    [
        (
            gpt3(16, 2, 4, 4, vocabulary=24, context=8),
            "one kind of layer, and this network several",
        ),
        (MLP(3), "A MLP has no place in Hugging Face's transformers"),
        (in_attention(gpt2(24, 16, 1, 4, 8), window=3), r"attention.window \(3 instead of None\)"),
        (gpt2(24, 16, 1, 4, 8).clone(positions=None), "None where Hugging Face's architecture has"),
        (SMALL.clone(scales=Scales(soft_cap=30.0)), "no network like this one: scales"),
        (in_attention(SMALL, sinks=True), "attention.sinks"),
        (in_attention(SMALL, position_bias=alibi), "attention.position_bias"),
        (in_attention(SMALL, rotary=None), "None where Hugging Face's architecture has"),
        (in_attention(SMALL, rotary=partial(rotary_angles, share=0.5)), "attention.rotary.share"),
        (
            in_attention(SMALL, rotary=partial(rotary_angles, scaling=ntk_aware(2.0))),
            "stretch rotary positions in other ways",
        ),
        (
            SMALL.clone(mlp=partial(SMALL.mlp, activation=jnp.tanh)),
            "no name for the activation 'tanh'",
        ),
        (
            MIXTURE.clone(mlp=partial(MIXTURE.mlp, dispatch=within_capacity)),
            r"mlp.dispatch .* instead of dropless",
        ),
        (bert(24, 16, 1, 4).clone(embedding_norm=False), "embedding_norm"),
        (bert(24, 16, 1, 4).clone(transforms=False), "transforms"),
        (transformer_2017(24, 16, 1, 4, 20), "None where Hugging Face's architecture has"),
        (t5(24, 16, 1, 4, 4, 20).clone(scales=Scales(logits=0.3)), "scales"),
    ],
)
def test_networks_that_they_do_not_have_are_refused(network, said, tmp_path):
    with pytest.raises(UserError, match=said):
        save(tmp_path / "new", network, {})
    assert not (tmp_path / "new").exists()


@pytest.fixture(scope="module")
def tokenizer():
    texts = ["the cat sat on the mat, the rat on the hat.\n"] * 20
    return train_byte_pairs(texts, 290, GPT2_SPECIAL)


@pytest.fixture(scope="module")
def saved(tmp_path_factory, tokenizer):
    """A small GPT-2 with a tokenizer, in one file."""
    folder = tmp_path_factory.mktemp("saved") / "model"
    network = network_of(SMALL_GPT2)
    shapes = abstract_params(network, None, jnp.float32)
    params = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), shapes)
    save(folder, network, params, tokenizer, {"note": "kept"})
    return folder


@pytest.fixture
def folder(tmp_path, saved):
    """A copy of it, to be damaged."""
    return shutil.copytree(saved, tmp_path / "model")


def change_tensors(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def change_json(folder, name, **changes):
    content = json.loads((folder / name).read_text()) | changes
    (folder / name).write_text(json.dumps(content))


def test_a_tokenizer_goes_with_its_checkpoint(folder, tokenizer):
    loaded = load(folder, dtype=jnp.bfloat16)
    assert loaded.tokenizer.fingerprint == tokenizer.fingerprint
    end = tokenizer.special_token("eos")
    assert loaded.config["eos_token_id"] == loaded.config["bos_token_id"] == end
    assert loaded.config["note"] == "kept" and loaded.config["dtype"] == "float32"
    assert loaded.network.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(loaded.params)} == {jnp.dtype(jnp.bfloat16)}
    (folder / "tokenizer.json").unlink()
    assert load(folder).tokenizer is None


def test_half_precision_is_written(folder, tmp_path):
    loaded = load(folder)
    save(tmp_path / "half", loaded.network, loaded.params, dtype=jnp.bfloat16)
    again = load(tmp_path / "half")
    assert again.config["dtype"] == "bfloat16"
    # Without a tokenizer nobody knows a text's end: transformers' default is another vocabulary's.
    assert again.config["eos_token_id"] is None
    jax.tree.map(np.testing.assert_array_equal, again.params, loaded.params)


ATTENTION = "transformer.h.0.attn.c_attn.weight"


@pytest.mark.parametrize(
    "damage, said",
    [
        (
            lambda f: change_tensors(f, lambda t: t.pop(ATTENTION)),
            rf"has no tensor {ATTENTION}: its config.json asks for it",
        ),
        (
            lambda f: change_tensors(f, lambda t: t.update({ATTENTION: t[ATTENTION][:8].copy()})),
            rf"The tensor {ATTENTION} is \(8, 48\), and by config.json it should be \(16, 48\)",
        ),
        (
            lambda f: change_tensors(f, lambda t: t.update({"score.weight": np.zeros(3)})),
            "The network has no place for the tensor score.weight",
        ),
        (
            lambda f: change_tensors(
                f, lambda t: t.update({"lm_head.weight": np.zeros((300, 16))})
            ),
            "lm_head.weight is another tensor than transformer.wte.weight",
        ),
        (
            lambda f: change_json(f, "config.json", model_type="mamba"),
            "type 'mamba'; here there are",
        ),
        (
            lambda f: change_json(f, "config.json", vocab_size=270),
            "this tokenizer has 273 tokens and isn't the one of .*, whose vocabulary has 270",
        ),
        (
            lambda f: change_json(f, "config.json", eos_token_id=[7, 299]),
            "eos_token_id = 299, and its tokenizer, of 273 tokens, has no token of that number",
        ),
        (
            lambda f: change_json(f, "config.json", eos_token_id=7),
            r"eos_token_id = 7, and its tokenizer's eos token <\|endoftext\|> is number 0",
        ),
        (lambda f: (f / "tokenizer.json").write_text("{}"), "the tokenizer in .* can't be used"),
        (lambda f: (f / "model.safetensors").unlink(), "neither model.safetensors nor"),
    ],
)
def test_what_does_not_belong_is_named(folder, damage, said):
    damage(folder)
    with pytest.raises(UserError, match=said):
        load(folder)


def test_saving_refuses_what_does_not_belong(folder, tokenizer, tmp_path):
    loaded = load(folder)
    with pytest.raises(UserError, match="exists already"):
        save(folder, loaded.network, loaded.params)
    with pytest.raises(UserError, match=r"tokenizer has 273 tokens .* this network"):
        small = network_of(SMALL_GPT2 | {"vocab_size": 100})
        save(tmp_path / "new", small, abstract_params(small, None, jnp.float32), tokenizer)
    with pytest.raises(UserError, match="eos_token_id = 5"):
        config = {"eos_token_id": 5}
        save(tmp_path / "new", loaded.network, loaded.params, tokenizer, config)
    with pytest.raises(UserError, match="no head/kernel: they are of another network"):
        save(tmp_path / "new", loaded.network.clone(tied=False), loaded.params)
    assert not (tmp_path / "new").exists()


def test_roles_without_a_number_do_not_matter(tokenizer):
    named = {"pad": "<|endoftext|>"}
    assert (
        GPT2_SPECIAL.roles() | named
        == SpecialTokens(pad="<|endoftext|>", bos="<|endoftext|>", eos="<|endoftext|>").roles()
    )
    hugging_face.tokenizer_files.check(tokenizer, {"pad_token_id": -1, "x": 3}, 300, "a model")


@pytest.mark.parametrize(
    "config, names",
    [
        (
            GPT2,
            {
                "h.3.attn.c_attn.weight": "transformer.h.3.attn.c_attn.weight",
                "transformer.wte.weight": "transformer.wte.weight",
                "lm_head.weight": "lm_head.weight",
                "h.3.attn.bias": None,
                "transformer.h.11.attn.masked_bias": None,
                "h.3.attn.c_attn.bias": "transformer.h.3.attn.c_attn.bias",
            },
        ),
        (
            LLAMA3,
            {
                "norm.weight": "model.norm.weight",
                "lm_head.weight": "lm_head.weight",
                "model.layers.0.self_attn.rotary_emb.inv_freq": None,
            },
        ),
        (
            BERT,
            {
                "embeddings.LayerNorm.gamma": "bert.embeddings.LayerNorm.weight",
                "cls.predictions.transform.LayerNorm.beta": (
                    "cls.predictions.transform.LayerNorm.bias"
                ),
                "pooler.dense.bias": "bert.pooler.dense.bias",
                "bert.embeddings.position_ids": None,
                "cls.seq_relationship.weight": None,
            },
        ),
        (
            T5,
            {
                "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight": None,
                "shared.weight": "shared.weight",
            },
        ),
    ],
    ids=["gpt2", "llama", "bert", "t5"],
)
def test_older_names_are_known(config, names):
    table = ARCHITECTURES[config["model_type"]].table(network_of(config))
    assert {name: table.renamed(name) for name in names} == names

"""Each architecture written out in numpy, from a file's tensors by their names, as transformers
computes it: our networks give the same, and come back from their files as they were."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from jaxgen.interop import hugging_face
from jaxgen.parallel.mesh import MeshShape, make_mesh

VOCABULARY, WIDTH, HEADS, DEPTH, HIDDEN, LAYERS = 24, 16, 4, 4, 20, 2
RANDOM = np.random.default_rng(0)
TOKENS = RANDOM.integers(VOCABULARY, size=(2, 7))
CAUSAL = np.tril(np.ones((7, 7), bool))

GPT2 = {"model_type": "gpt2", "vocab_size": VOCABULARY, "n_embd": WIDTH, "n_layer": LAYERS}
GPT2 |= {"n_head": HEADS, "n_positions": 8, "layer_norm_epsilon": 1e-3}
LLAMA = {
    "model_type": "llama",
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-3,
    "rope_theta": 50.0,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    },
}
QWEN3 = LLAMA | {"model_type": "qwen3", "tie_word_embeddings": True, "head_dim": 6}
QWEN3 |= {"rope_scaling": None, "rope_parameters": {"rope_theta": 50.0, "rope_type": "default"}}
MIXTRAL = LLAMA | {"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2}
MIXTRAL |= {"rope_scaling": None, "sliding_window": 3}
BERT = {
    "model_type": "bert",
    "architectures": ["BertForPreTraining"],
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "max_position_embeddings": 8,
    "layer_norm_eps": 1e-3,
}
T5 = {"model_type": "t5", "vocab_size": VOCABULARY, "d_model": WIDTH, "d_kv": 5, "d_ff": HIDDEN}
T5 |= {"num_layers": LAYERS, "num_heads": HEADS, "relative_attention_num_buckets": 8}
T5 |= {"relative_attention_max_distance": 12, "layer_norm_epsilon": 1e-3}
T5_GATED = T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}


class Weights:
    """A file's tensors in float64, with layers that take them by name."""

    def __init__(self, tensors):
        self.tensors = {name: array.astype(np.float64) for name, array in tensors.items()}

    def __getitem__(self, name):
        return self.tensors[name]

    def linear(self, name, x):
        return x @ self[f"{name}.weight"].T + self.tensors.get(f"{name}.bias", 0)

    def layer_norm(self, name, x):
        normal = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-3)
        return normal * self[f"{name}.weight"] + self[f"{name}.bias"]

    def rms_norm(self, name, x):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-3) * self[f"{name}.weight"]


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def silu(x):
    return x / (1 + np.exp(-x))


def gelu(x):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def gelu_tanh(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def heads(x, number=HEADS):
    return x.reshape(*x.shape[:2], number, -1).swapaxes(1, 2)


def attend(query, key, value, seen, scale=None, bias=0.0):
    """(batch, heads, time, depth) each; keys' heads repeated; heads joined again."""
    repeat = query.shape[1] // key.shape[1]
    key, value = np.repeat(key, repeat, 1), np.repeat(value, repeat, 1)
    scores = query @ key.swapaxes(2, 3) * (scale or query.shape[-1] ** -0.5) + bias
    out = softmax(np.where(seen, scores, -1e30)) @ value
    return out.swapaxes(1, 2).reshape(out.shape[0], out.shape[2], -1)


def gpt2(w):
    x = w["transformer.wte.weight"][TOKENS] + w["transformer.wpe.weight"][:7]
    for n in range(LAYERS):
        name = f"transformer.h.{n}."

        def conv(part, x, name=name):
            return x @ w[f"{name}{part}.weight"] + w[f"{name}{part}.bias"]

        qkv = conv("attn.c_attn", w.layer_norm(name + "ln_1", x))
        x = x + conv("attn.c_proj", attend(*map(heads, np.split(qkv, 3, -1)), CAUSAL))
        x = x + conv("mlp.c_proj", gelu_tanh(conv("mlp.c_fc", w.layer_norm(name + "ln_2", x))))
    return w.layer_norm("transformer.ln_f", x) @ w["transformer.wte.weight"].T


def turned(x, scaled):
    frequencies = 50.0 ** -(np.arange(0, x.shape[-1], 2) / x.shape[-1])
    if scaled:
        wavelength = 2 * math.pi / frequencies
        smooth = (16 / wavelength - 1) / (4 - 1)
        between = (1 - smooth) * frequencies / 8 + smooth * frequencies
        frequencies = np.where(
            wavelength > 16 / 1,
            frequencies / 8,
            np.where(wavelength < 16 / 4, frequencies, between),
        )
    angles = np.tile(np.arange(7)[:, None] * frequencies, 2)
    half = x.shape[-1] // 2
    rotated = np.concatenate([-x[..., half:], x[..., :half]], -1)
    return x * np.cos(angles) + rotated * np.sin(angles)


def llama(w, kind):
    seen = CAUSAL if kind != "mixtral" else CAUSAL & ~np.tril(CAUSAL, -3)
    x = w["model.embed_tokens.weight"][TOKENS]
    for n in range(LAYERS):
        name = f"model.layers.{n}."
        h = w.rms_norm(name + "input_layernorm", x)
        q, k, v = (
            heads(w.linear(f"{name}self_attn.{part}_proj", h), number)
            for part, number in (("q", HEADS), ("k", 2), ("v", 2))
        )
        if kind == "qwen3":
            q = w.rms_norm(name + "self_attn.q_norm", q)
            k = w.rms_norm(name + "self_attn.k_norm", k)
        q, k = turned(q, kind == "llama"), turned(k, kind == "llama")
        x = x + w.linear(name + "self_attn.o_proj", attend(q, k, v, seen))
        h = w.rms_norm(name + "post_attention_layernorm", x)
        x = x + (mixture(w, name, h) if kind == "mixtral" else gated(w, name + "mlp.", h))
    x = w.rms_norm("model.norm", x)
    head = "model.embed_tokens" if kind == "qwen3" else "lm_head"
    return w.linear(head, x)


def gated(w, name, x, names=("gate_proj", "up_proj", "down_proj"), activation=silu):
    gate, up, down = (name + part for part in names)
    return w.linear(down, activation(w.linear(gate, x)) * w.linear(up, x))


def mixture(w, name, x):
    name += "block_sparse_moe."
    weights = softmax(w.linear(name + "gate", x))
    smallest_chosen = np.sort(weights, -1)[..., -2:-1]
    weights = np.where(weights >= smallest_chosen, weights, 0)
    weights /= weights.sum(-1, keepdims=True)
    experts = [gated(w, f"{name}experts.{e}.", x, ("w1", "w3", "w2")) for e in range(4)]
    return sum(weights[..., e, None] * experts[e] for e in range(4))


def bert(w):
    embeddings = "bert.embeddings."
    x = w[embeddings + "word_embeddings.weight"][TOKENS]
    x = x + w[embeddings + "position_embeddings.weight"][:7]
    x = w.layer_norm(
        embeddings + "LayerNorm", x + w[embeddings + "token_type_embeddings.weight"][0]
    )
    for n in range(LAYERS):
        name = f"bert.encoder.layer.{n}."
        parts = (w.linear(f"{name}attention.self.{p}", x) for p in ("query", "key", "value"))
        out = w.linear(name + "attention.output.dense", attend(*map(heads, parts), True))
        x = w.layer_norm(name + "attention.output.LayerNorm", x + out)
        out = w.linear(name + "output.dense", gelu(w.linear(name + "intermediate.dense", x)))
        x = w.layer_norm(name + "output.LayerNorm", x + out)
    pooled = np.tanh(w.linear("bert.pooler.dense", x[:, 0]))
    x = gelu(w.linear("cls.predictions.transform.dense", x))
    x = w.layer_norm("cls.predictions.transform.LayerNorm", x)
    scores = x @ w[embeddings + "word_embeddings.weight"].T + w["cls.predictions.bias"]
    return scores, pooled


def t5_bucket(ahead, both_ways):
    """Of one distance, 8 buckets up to 12."""
    buckets, first = 8, 0
    if both_ways:
        buckets = 4
        first = 4 if ahead > 0 else 0
    distance = abs(ahead) if both_ways else max(-ahead, 0)
    exact = buckets // 2
    if distance < exact:
        return first + distance
    far = exact + int(math.log(distance / exact) / math.log(12 / exact) * (buckets - exact))
    return first + min(far, buckets - 1)


def t5(w, forward):
    def tower(kind, tokens, seen, memory=None):
        table = f"{kind}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        buckets = [[t5_bucket(k - q, kind == "encoder") for k in range(7)] for q in range(7)]
        bias = w[table][np.array(buckets)].transpose(2, 0, 1)
        x = w["shared.weight"][tokens]
        for n in range(LAYERS):
            name = f"{kind}.block.{n}.layer."
            h = w.rms_norm(name + "0.layer_norm", x)
            qkv = (heads(w.linear(f"{name}0.SelfAttention.{part}", h)) for part in "qkv")
            x = x + w.linear(name + "0.SelfAttention.o", attend(*qkv, seen, 1.0, bias))
            if memory is not None:
                across = f"{name}1.EncDecAttention."
                q = heads(w.linear(across + "q", w.rms_norm(name + "1.layer_norm", x)))
                kv = (heads(w.linear(across + part, memory)) for part in "kv")
                x = x + w.linear(across + "o", attend(q, *kv, True, 1.0))
            last = f"{name}{1 if memory is None else 2}."
            x = x + forward(last + "DenseReluDense.", w.rms_norm(last + "layer_norm", x))
        return w.rms_norm(f"{kind}.final_layer_norm", x)

    return tower("decoder", TOKENS, CAUSAL, tower("encoder", TOKENS[:, ::-1], True))


def t5_plain(w):
    def forward(name, x):
        return w.linear(name + "wo", np.maximum(w.linear(name + "wi", x), 0))

    return t5(w, forward) @ w["shared.weight"].T * WIDTH**-0.5


def t5_gated(w):
    def forward(name, x):
        return gated(w, name, x, ("wi_0", "wi_1", "wo"), gelu_tanh)

    return w.linear("lm_head", t5(w, forward))


def run(network, params):
    variables, tokens = {"params": params}, jnp.asarray(TOKENS)
    if hasattr(network, "pools"):
        hidden = network.apply(variables, tokens, method="hidden")
        scores = network.apply(variables, hidden, method="scores")
        return scores, network.apply(variables, hidden, method="pooled")
    if hasattr(network, "decoder"):
        return network.apply(variables, tokens[:, ::-1], tokens)
    return network.apply(variables, tokens)


@pytest.mark.parametrize(
    "config, by_hand",
    [
        (GPT2, gpt2),
        (LLAMA, lambda w: llama(w, "llama")),
        (QWEN3, lambda w: llama(w, "qwen3")),
        (MIXTRAL, lambda w: llama(w, "mixtral")),
        (BERT, bert),
        (T5, t5_plain),
        (T5_GATED, t5_gated),
    ],
    ids=["gpt2", "llama", "qwen3", "mixtral", "bert", "t5", "t5 1.1"],
)
def test_files_say_what_the_network_computes(config, by_hand, tmp_path):
    architecture = hugging_face.ARCHITECTURES[config["model_type"]]
    network = architecture.network_of(config, None)
    generator = np.random.default_rng(1)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(generator.normal(0, 0.4, leaf.shape), jnp.float32),
        hugging_face.abstract_params(network, None, jnp.float32),
    )
    hugging_face.save(tmp_path / "saved", network, params, shard_bytes=10_000)
    tensors = {}
    for file in (tmp_path / "saved").glob("*.safetensors"):
        tensors |= load_file(file)
    ours = jax.jit(run, static_argnums=0)(network, params)
    theirs = by_hand(Weights(tensors))
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert np.std(other) > 0.1
        np.testing.assert_allclose(one, other, rtol=0, atol=5e-5)
    again = hugging_face.load(tmp_path / "saved", make_mesh(MeshShape(data=1, fsdp=2, tensor=4)))
    jax.tree.map(np.testing.assert_array_equal, again.params, params)
    assert again.tokenizer is None
    kernel = again.params["tokens"]["embedding"].sharding
    assert kernel.spec == jax.sharding.PartitionSpec("tensor", "fsdp")

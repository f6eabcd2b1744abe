"""The training step of a small Mixtral, side by side with transformers' own on the CPU.

    python benchmarks/moe_step.py            # 2 threads each, about 2 minutes

Both get the same weights and batches; loss and gradients are first checked to agree to 1e-4. A
step is forward, backward, clipping to norm 1 and AdamW, in float32; 8 experts, 2 of them for each
token, none dropped, no loss for the router (ours works its metrics out all the same). PyTorch runs
eagerly, with the experts that transformers takes by itself (`grouped_mm`) and those of its plain
loop (`eager`).
"""

from functools import partial

import gpt_step
import jax
import jax.numpy as jnp
import numpy as np
import side_by_side
import torch
from torch import nn
from torch.nn import functional as F
from transformers import MixtralConfig, MixtralForCausalLM

from jaxgen.families.autoregressive.architectures import llama
from jaxgen.families.autoregressive.language_model import language_model
from jaxgen.families.autoregressive.likelihood import next_token_loss
from jaxgen.nn.mixture_of_experts import MixtureOfExperts

VOCABULARY, LAYERS, HEADS, GROUPS, EXPERTS, CHOSEN = 65, 4, 4, 2, 8, 2
SETTINGS = {
    "small: 4 layers, width 128, 8 experts of 256, context 64, batch 12": (128, 256, 64, 12),
    "large: 4 layers, width 384, 8 experts of 768, context 128, batch 8": (384, 768, 128, 8),
}


class Mixtral(nn.Module):
    """transformers' model as a loss of tokens and targets."""

    def __init__(self, width, hidden, context, experts_implementation):
        super().__init__()
        config = MixtralConfig(
            vocab_size=VOCABULARY,
            hidden_size=width,
            intermediate_size=hidden,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            num_key_value_heads=GROUPS,
            max_position_embeddings=context,
            num_local_experts=EXPERTS,
            num_experts_per_tok=CHOSEN,
            use_cache=False,
            experts_implementation=experts_implementation,
        )
        self.inner = MixtralForCausalLM(config)

    def forward(self, tokens, targets):
        logits = self.inner(tokens).logits
        return F.cross_entropy(logits.view(-1, VOCABULARY), targets.reshape(-1))


def network(width, hidden):
    """Ours: Llama's with experts."""
    base = llama(VOCABULARY, width, LAYERS, HEADS, GROUPS, hidden, rotary_base=1e6)
    mixture = partial(MixtureOfExperts, experts=EXPERTS, chosen=CHOSEN, hidden=hidden)
    return base.clone(mlp=mixture, unroll=LAYERS)


def as_jax(model, leaf):
    """PyTorch's weights (or gradients, as `leaf` takes them) as jaxgen's tree, copied."""
    inner = model.inner.model
    width = inner.embed_tokens.weight.shape[1]
    depth = width // HEADS

    def stacked(get):
        """Every layer's, inputs before outputs."""
        return np.stack([leaf(get(layer)).numpy() for layer in inner.layers]).swapaxes(-1, -2)

    def into(get, heads):
        return {"kernel": stacked(get).reshape(LAYERS, width, heads, depth)}

    def norm(get):
        return {"scale": np.stack([leaf(get(layer)).numpy() for layer in inner.layers])}

    gate, up = np.split(stacked(lambda layer: layer.mlp.experts.gate_up_proj), 2, axis=-1)
    out = stacked(lambda layer: layer.self_attn.o_proj.weight)
    tree = {
        "tokens": {"embedding": leaf(inner.embed_tokens.weight).numpy()},
        "head": {"kernel": leaf(model.inner.lm_head.weight).numpy().T},
        "norm": {"scale": leaf(inner.norm.weight).numpy()},
        "blocks": {
            "attention_norm": norm(lambda layer: layer.input_layernorm.weight),
            "attention": {
                "query": into(lambda layer: layer.self_attn.q_proj.weight, HEADS),
                "key": into(lambda layer: layer.self_attn.k_proj.weight, GROUPS),
                "value": into(lambda layer: layer.self_attn.v_proj.weight, GROUPS),
                "out": {"kernel": out.reshape(LAYERS, HEADS, depth, width)},
            },
            "mlp_norm": norm(lambda layer: layer.post_attention_layernorm.weight),
            "mlp": {
                "router": {"kernel": stacked(lambda layer: layer.mlp.gate.weight)},
                "gate": {"kernel": gate},
                "up": {"kernel": up},
                "down": {"kernel": stacked(lambda layer: layer.mlp.experts.down_proj)},
            },
        },
    }
    return jax.tree.map(lambda x: jnp.array(x, copy=True), tree)


def main():
    parser = side_by_side.arguments(__doc__)
    parser.add_argument("--only", choices=["small", "large"])
    chosen = parser.parse_args()
    side_by_side.share_threads(chosen.threads)
    for name, (width, hidden, context, batch) in SETTINGS.items():
        if chosen.only and not name.startswith(chosen.only):
            continue
        for experts in ("grouped_mm", "eager"):
            torch.manual_seed(0)
            model = Mixtral(width, hidden, context, experts)
            tokens = np.random.default_rng(0).integers(VOCABULARY, size=(batch, context + 1))
            loss = next_token_loss(language_model(network(width, hidden)))
            sides = gpt_step.pair(loss, model, partial(as_jax, model), tokens)
            count = 10 if name.startswith("small") else 2
            title = f"{name}, PyTorch's {experts}"
            side_by_side.compare(title, *sides, turns=chosen.turns, steps=count, warm_up=count)


if __name__ == "__main__":
    main()

"""The training step of the Shakespeare settings, side by side with PyTorch on the CPU.

    python benchmarks/gpt_step.py            # both settings, 2 threads each, about 2 minutes

Both get the same weights and batches; loss and gradients are first checked to agree to 1e-4. A
step is forward, backward, clipping to norm 1 and AdamW, in float32, without dropout; PyTorch runs
eagerly, as nanoGPT trains on CPUs. The larger setting's batch is cut from 64 to 16 to suit a CPU.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import side_by_side
import torch
import torch_gpt
from torch.nn.utils import clip_grad_norm_

from jaxgen.experiment import Context, Update
from jaxgen.families.autoregressive.language_model import language_model
from jaxgen.families.autoregressive.likelihood import next_token_loss
from jaxgen.families.autoregressive.transformer import Transformer
from jaxgen.nn.embedding import PositionEmbedding
from jaxgen.nn.mlp import MLP
from jaxgen.nn.norm import LayerNorm
from jaxgen.nn.self_attention import SelfAttention
from jaxgen.training.optimizers import adamw
from jaxgen.training.state import TrainState
from jaxgen.training.step import make_train_step

VOCABULARY = 65
SETTINGS = {
    "small: 4 layers, 4 heads, width 128, context 64, batch 12": (4, 4, 128, 64, 12),
    "large: 6 layers, 6 heads, width 384, context 256, batch 16": (6, 6, 384, 256, 16),
}


def network(layers, heads, width, context):
    """nanoGPT's network: learned positions, no biases, exact GELU, tied weights."""
    return Transformer(
        vocabulary=VOCABULARY,
        width=width,
        layers=layers,
        attention=partial(SelfAttention, heads=heads, bias=False),
        mlp=partial(MLP, hidden=4 * width, bias=False),
        norm=partial(LayerNorm, bias=False),
        positions=partial(PositionEmbedding, context),
        unroll=layers,
    )


def as_jax(model, heads, leaf):
    """PyTorch's weights (or gradients, as `leaf` takes them) as jaxgen's tree, copied."""
    width = model.wte.weight.shape[1]

    def stacked(get):
        return np.stack([leaf(get(block)).numpy() for block in model.blocks])

    def kernel(get, *shape):
        matrices = stacked(get).transpose(0, 2, 1)
        return matrices.reshape(len(matrices), *shape) if shape else matrices

    into = (width, heads, width // heads)
    query, key, value = np.split(stacked(lambda block: block.c_attn.weight), 3, axis=1)
    query, key, value = (x.transpose(0, 2, 1).reshape(-1, *into) for x in (query, key, value))
    out = kernel(lambda block: block.attn_proj.weight, heads, width // heads, width)
    tree = {
        "tokens": {"embedding": leaf(model.wte.weight).numpy()},
        "positions": {"embedding": leaf(model.wpe.weight).numpy()},
        "norm": {"scale": leaf(model.ln_f.weight).numpy()},
        "blocks": {
            "attention_norm": {"scale": stacked(lambda block: block.ln_1.weight)},
            "attention": {
                "query": {"kernel": query},
                "key": {"kernel": key},
                "value": {"kernel": value},
                "out": {"kernel": out},
            },
            "mlp_norm": {"scale": stacked(lambda block: block.ln_2.weight)},
            "mlp": {
                "up": {"kernel": kernel(lambda block: block.c_fc.weight)},
                "down": {"kernel": kernel(lambda block: block.mlp_proj.weight)},
            },
        },
    }
    return jax.tree.map(lambda x: jnp.array(x, copy=True), tree)


def agree(loss, params, model, as_tree, tokens):
    """Stops unless loss and every gradient are the same to 1e-4 of their size.

    model: takes tokens and targets to PyTorch's loss; as_tree: makes our tree of what a function
    takes from its parameters.
    """
    value, gradients = jax.jit(
        jax.value_and_grad(
            lambda params: loss(params, Context({"tokens": tokens}, None, 0, {}, params)).value
        )
    )(params)
    peer = model(torch.from_numpy(tokens[:, :-1]), torch.from_numpy(tokens[:, 1:]))
    peer.backward()
    assert abs(float(value) - peer.item()) < 1e-4, (float(value), peer.item())
    theirs = as_tree(lambda parameter: parameter.grad)
    assert jax.tree.structure(gradients) == jax.tree.structure(theirs)
    for (path, a), b in zip(
        jax.tree.leaves_with_path(gradients), jax.tree.leaves(theirs), strict=True
    ):
        error = float(jnp.abs(a - b).max() / jnp.abs(b).max())
        assert error < 1e-4, f"{jax.tree_util.keystr(path)}: gradients differ by {error:.1e}"


def steps(sizes):
    """Two functions of a number of steps that run so many and wait for them: ours and theirs."""
    layers, heads, width, context, batch = sizes
    torch.manual_seed(0)
    model = torch_gpt.GPT(VOCABULARY, width, layers, heads, context, dropout=0.0)
    tokens = np.random.default_rng(0).integers(VOCABULARY, size=(batch, context + 1))
    loss = next_token_loss(language_model(network(layers, heads, width, context)))
    return pair(loss, model, partial(as_jax, model, heads), tokens)


def pair(loss, model, as_tree, tokens):
    """`steps` of a loss of ours and a model of PyTorch's, after `agree`."""
    params = as_tree(lambda parameter: parameter.detach())
    agree(loss, params, model, as_tree, tokens)
    peer = torch_gpt.adamw(model, rate=1e-3, betas=(0.9, 0.99), weight_decay=0.1)
    optimizer = adamw(1e-3, b1=0.9, b2=0.99, weight_decay=0.1, clip=1.0)
    update = Update("gpt", loss, optimizer)
    step = jax.jit(make_train_step([update], jax.random.key(0)), donate_argnums=0)
    state = TrainState(jnp.int32(0), params, {}, {"gpt": optimizer.init(params)}, {})

    def ours(count):
        nonlocal state
        for _ in range(count):
            state, _, finite = step(state, {"tokens": tokens[None]})
        finite.block_until_ready()

    def theirs(count):
        seen, targets = torch.from_numpy(tokens[:, :-1]), torch.from_numpy(tokens[:, 1:])
        for _ in range(count):
            peer.zero_grad(set_to_none=True)
            model(seen, targets).backward()
            clip_grad_norm_(model.parameters(), 1.0)
            peer.step()

    return ours, theirs


def main():
    parser = side_by_side.arguments(__doc__)
    parser.add_argument("--only", choices=["small", "large"])
    chosen = parser.parse_args()
    side_by_side.share_threads(chosen.threads)
    for name, sizes in SETTINGS.items():
        if chosen.only and not name.startswith(chosen.only):
            continue
        count = 20 if name.startswith("small") else 2
        side_by_side.compare(name, *steps(sizes), turns=chosen.turns, steps=count, warm_up=count)


if __name__ == "__main__":
    main()

"""The training step of a recurrent language model, side by side with PyTorch on the CPU.

    python benchmarks/recurrent_step.py      # LSTM and GRU in two sizes, 2 threads each

Both get the same weights and batches; loss and gradients are first checked to agree to 1e-4. A
step is forward, backward, clipping to norm 1 and AdamW, in float32, without dropout; PyTorch's
layers are oneDNN's, run eagerly.
"""

from functools import partial

import jax.numpy as jnp
import numpy as np
import side_by_side
import torch
from gpt_step import pair

from jaxgen.families.autoregressive.language_model import language_model
from jaxgen.families.autoregressive.likelihood import next_token_loss
from jaxgen.families.autoregressive.recurrent import RecurrentLanguage
from jaxgen.interop.torch_recurrent import stack_from_torch
from jaxgen.nn.recurrent_cells import GRU, LSTM
from jaxgen.nn.recurrent_stack import RecurrentStack

VOCABULARY, LAYERS = 65, 2
KINDS = {"lstm": (LSTM, torch.nn.LSTM), "gru": (GRU, torch.nn.GRU)}
SIZES = {
    "width 256, 128 steps, batch 32": (256, 128, 32),
    "width 512, 64 steps, batch 64": (512, 64, 64),
}


class Peer(torch.nn.Module):
    """Embedding, layers and head; the loss."""

    def __init__(self, layer, width):
        super().__init__()
        self.tokens = torch.nn.Embedding(VOCABULARY, width)
        self.layers = layer(width, width, num_layers=LAYERS, batch_first=True)
        self.head = torch.nn.Linear(width, VOCABULARY)

    def forward(self, tokens, targets):
        logits = self.head(self.layers(self.tokens(tokens))[0])
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def as_jax(model, layers, leaf):
    """PyTorch's weights (or gradients, as `leaf` takes them) as jaxgen's tree, copied."""
    found = {name: leaf(each).numpy() for name, each in model.layers.named_parameters()}
    if leaf(model.layers.bias_ih_l0) is model.layers.bias_ih_l0.grad:
        # A gradient isn't a sum of both biases: each of them has the whole one.
        for name in [name for name in found if name.startswith("bias_hh")]:
            whole = len(found[name])
            # But a GRU's candidate has two, of which each is its own.
            shared = 2 * whole // 3 if isinstance(layers[0], GRU) else whole
            found[name] = np.concatenate([np.zeros(shared, np.float32), found[name][shared:]])
    tree = {
        "tokens": {"embedding": leaf(model.tokens.weight).numpy()},
        "stack": stack_from_torch(found, layers),
        "head": {
            "kernel": leaf(model.head.weight).numpy().T,
            "bias": leaf(model.head.bias).numpy(),
        },
    }
    return jnp_tree(tree)


def jnp_tree(tree):
    """The same, copied."""
    if isinstance(tree, dict):
        return {name: jnp_tree(each) for name, each in tree.items()}
    return jnp.array(tree, copy=True)


def steps(ours, theirs, width, length, batch, unroll):
    """Two functions of a number of steps that run so many and wait for them: ours and theirs."""
    torch.manual_seed(0)
    model = Peer(theirs, width)
    make = partial(ours, width, unroll=unroll)
    network = RecurrentLanguage(VOCABULARY, width, partial(RecurrentStack, [make] * LAYERS))
    tokens = np.random.default_rng(0).integers(VOCABULARY, size=(batch, length + 1))
    loss = next_token_loss(language_model(network))
    return pair(loss, model, partial(as_jax, model, [make()] * LAYERS), tokens)


def main():
    parser = side_by_side.arguments(__doc__)
    parser.add_argument("--only", choices=KINDS)
    parser.add_argument("--unroll", type=int, default=LSTM.unroll)
    chosen = parser.parse_args()
    side_by_side.share_threads(chosen.threads)
    for kind, (ours, theirs) in KINDS.items():
        if chosen.only in (None, kind):
            for name, sizes in SIZES.items():
                both = steps(ours, theirs, *sizes, chosen.unroll)
                side_by_side.compare(
                    f"{kind}, {name}", *both, turns=chosen.turns, steps=4, warm_up=2
                )


if __name__ == "__main__":
    main()

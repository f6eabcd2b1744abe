"""The training step of the digits' U-Net, side by side with PyTorch on the CPU.

    python benchmarks/unet_step.py            # 2 threads each, about a minute

Both get the same weights, pictures, noise and times; loss and gradients are first checked to agree
to 1e-4. A step is forward, backward, clipping to norm 1, AdamW and a moving average, in float32.
PyTorch runs eagerly, in the memory format that suits it best (channels last), with its fused
optimizer.

Where our step's time goes (one core): 42 % convolutions and their gradients by the input, 21 %
their gradients by the kernel (at 0.65 to 0.9 of oneDNN's speed) and 8 % turning arguments around
for those, 9 % matrix products, 12 % normalization and SiLU, 3 % clipping, AdamW and the average.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import side_by_side
import torch
import torch_unet

from jaxgen.experiment import Context, Output, Update
from jaxgen.families.diffusion.unet import UNet
from jaxgen.training.optimizers import adamw
from jaxgen.training.state import TrainState
from jaxgen.training.step import make_train_step

CLASSES, EMA, HEAD_DIM = 10, 0.995, 32


def as_torch(path, leaf):
    """The parameter's name and value as PyTorch has them."""
    *scopes, kind = (key.key for key in path)
    name = ".".join(scopes).replace("class", "told")
    value = np.array(leaf)
    if kind == "kernel":
        if scopes[-1] in ("query", "key", "value"):
            value = value.reshape(value.shape[0], -1)
        elif scopes[-1] == "output":
            value = value.reshape(-1, value.shape[-1])
        if scopes[-1] == "shortcut":
            value = value[None, None]
        value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
    kind = "bias" if kind == "bias" else "weight"
    return f"{name}.{kind}", torch.from_numpy(value.reshape(-1) if kind == "bias" else value.copy())


def named(tree):
    return dict(as_torch(*pair) for pair in jax.tree_util.tree_leaves_with_path(tree))


def flow_loss(network):
    """Rectified flow's, on noise and times that the batch brings: both sides need the same."""

    def loss(params, context):
        batch = context.batch
        prediction = network.apply({"params": params}, batch["x"], batch["time"], batch["label"])
        return Output(jnp.mean(jnp.square(prediction - batch["velocity"])))

    return loss


def agree(loss, params, batch, peer, peer_loss):
    """Stops unless loss and every gradient are the same to 1e-4 of their size."""
    value, gradients = jax.jit(
        jax.value_and_grad(lambda params: loss(params, Context(batch, None, 0, {}, {})).value)
    )(params)
    peer_value = peer_loss()
    peer_value.backward()
    assert abs(float(value) - peer_value.item()) < 1e-4, (float(value), peer_value.item())
    expected, found = named(gradients), dict(peer.named_parameters())
    assert expected.keys() == found.keys()
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    for name, gradient in expected.items():
        error = float((gradient - found[name].grad).abs().max()) / largest
        assert error < 1e-4, f"{name}: gradients differ by {error:.1e}"


def steps(widths, rows):
    """Two functions of a number of steps that run so many and wait for them: ours and theirs."""
    generator = np.random.default_rng(0)
    network = UNet(1, widths, blocks=1, classes=CLASSES, head_dim=HEAD_DIM)
    shapes = jax.eval_shape(
        network.init, jax.random.key(0), jnp.zeros((1, 8, 8, 1)), jnp.zeros(1), jnp.zeros(1, int)
    )["params"]

    def fill(leaf):
        # No layer at zero, where half of the gradients would vanish.
        spread = 0.1 if leaf.ndim == 1 else np.prod(leaf.shape[:-1]) ** -0.5
        return jnp.asarray(generator.normal(0, spread, leaf.shape), jnp.float32)

    params = jax.tree.map(fill, nn.unbox(shapes))
    picture, noise = generator.normal(size=(2, rows, 8, 8, 1)).astype(np.float32)
    moments = generator.uniform(size=rows).astype(np.float32)
    mix = moments[:, None, None, None]
    batch = {
        "x": (1 - mix) * picture + mix * noise,
        "velocity": noise - picture,
        "time": moments,
        "label": generator.integers(CLASSES, size=rows).astype(np.int32),
    }

    peer = torch_unet.UNet(1, widths, CLASSES, HEAD_DIM)
    peer.load_state_dict(named(params))
    peer = peer.to(memory_format=torch.channels_last)
    weights = list(peer.parameters())
    average = [weight.detach().clone() for weight in weights]
    optimizer = torch.optim.AdamW(
        weights, lr=1e-3, betas=(0.9, 0.99), weight_decay=0.01, fused=True
    )
    # A picture of one channel is channels first and last at once.
    x, velocity = (torch.from_numpy(batch[name]).permute(0, 3, 1, 2) for name in ("x", "velocity"))
    told = torch.nn.functional.one_hot(torch.from_numpy(batch["label"]).long(), CLASSES).float()
    time_ = torch.from_numpy(batch["time"])

    def peer_loss():
        return torch.nn.functional.mse_loss(peer(x, time_, told), velocity)

    loss = flow_loss(network)
    agree(loss, params, batch, peer, peer_loss)

    update = Update("flow", loss, adamw(1e-3, b2=0.99, weight_decay=0.01, clip=1.0), ema=EMA)
    step = jax.jit(make_train_step([update], jax.random.key(0)), donate_argnums=0)
    state = TrainState(
        jnp.int32(0),
        params,
        {},
        {"flow": update.optimizer.init(params)},
        {"flow": jax.tree.map(jnp.copy, params)},
    )
    batches = {name: leaf[None] for name, leaf in batch.items()}

    def ours(count):
        nonlocal state
        for _ in range(count):
            state, _, finite = step(state, batches)
        finite.block_until_ready()

    def theirs(count):
        for _ in range(count):
            optimizer.zero_grad(set_to_none=True)
            peer_loss().backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            with torch.no_grad():
                torch._foreach_lerp_(average, weights, 1 - EMA)

    return ours, theirs


def main():
    parser = side_by_side.arguments(__doc__)
    parser.add_argument("--widths", type=int, nargs="+", default=[32, 64])
    parser.add_argument("--rows", type=int, default=64)
    chosen = parser.parse_args()
    side_by_side.share_threads(chosen.threads)
    side_by_side.compare(
        f"U-Net of widths {chosen.widths}, batch {chosen.rows}",
        *steps(tuple(chosen.widths), chosen.rows),
        turns=chosen.turns,
        steps=5,
        warm_up=3,
    )


if __name__ == "__main__":
    main()

"""The training step of `mnist_vae`, side by side with pythae's VAE in PyTorch on the CPU.

    python benchmarks/vae_step.py            # 2 threads each, about half a minute

Both get the same weights and black and white pictures; the bound and its gradients are first
checked to agree to 1e-4 at the same noise. An update is forward, backward and Adam, in float32, on
Burda et al.'s network with one sample. pythae runs as its trainer runs it, one update a call; ours
one update a call, and 50 in one call as the experiment's default has it.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import side_by_side
import torch
from pythae.models import VAE, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from torch import nn

from jaxgen.experiment import Context, Update
from jaxgen.families.vae.binary_autoencoder import BinaryAutoencoder
from jaxgen.families.vae.dense import DenseDecoder, DenseEncoder
from jaxgen.families.vae.gaussian import standard_normal
from jaxgen.families.vae.objectives import analytic_bound_loss
from jaxgen.training.state import TrainState
from jaxgen.training.step import make_train_step

LATENT, HIDDEN, ITEM = 50, (200, 200), (28, 28, 1)
RATE, EPSILON = 1e-3, 1e-4
SCAN = 50


class Encoder(BaseEncoder):
    def __init__(self):
        super().__init__()
        self.hidden_0, self.hidden_1 = nn.Linear(784, HIDDEN[0]), nn.Linear(*HIDDEN)
        self.mean, self.log_deviation = (nn.Linear(HIDDEN[1], LATENT) for _ in range(2))

    def forward(self, x):
        x = torch.tanh(self.hidden_1(torch.tanh(self.hidden_0(x.reshape(len(x), -1)))))
        return ModelOutput(embedding=self.mean(x), log_covariance=2 * self.log_deviation(x))


class Decoder(BaseDecoder):
    def __init__(self):
        super().__init__()
        self.hidden_0, self.hidden_1 = nn.Linear(LATENT, HIDDEN[0]), nn.Linear(*HIDDEN)
        self.out = nn.Linear(HIDDEN[1], 784)

    def forward(self, z):
        x = torch.tanh(self.hidden_1(torch.tanh(self.hidden_0(z))))
        return ModelOutput(reconstruction=torch.sigmoid(self.out(x)).reshape(-1, 1, 28, 28))


class TheirNoise:
    """Ours to be drawn from with noise that PyTorch has drawn."""

    def __init__(self, gaussian, noise):
        self.gaussian, self.noise, self.mean = gaussian, noise, gaussian.mean

    def draw(self, key, samples):
        value = self.gaussian.mean + jnp.exp(self.gaussian.log_deviation) * self.noise
        return value[None], self.gaussian.log_probability(value)[None]

    def divergence(self, other):
        return self.gaussian.divergence(other)


def as_jax(module, leaf):
    """PyTorch's weights (or gradients, as `leaf` takes them) as jaxgen's tree, copied."""
    tree = {}
    for name, layer in module.named_children():
        tree[name] = {
            "kernel": jnp.array(leaf(layer.weight).numpy().T, copy=True),
            "bias": jnp.array(leaf(layer.bias).numpy(), copy=True),
        }
    return tree


def agree(network, params, peer, pictures):
    """Stops unless bound and every gradient are the same to 1e-4 of their size."""
    torch.manual_seed(1)
    bound = peer({"data": torch.from_numpy(pictures.transpose(0, 3, 1, 2).copy())}).loss
    bound.backward()
    torch.manual_seed(1)
    noise = torch.randn(len(pictures), LATENT).numpy()
    model = network.model

    def infer(params, observed):
        return TheirNoise(model.infer(params, observed), noise)

    known = type(model)(infer, model.log_prior, model.log_likelihood)
    loss = analytic_bound_loss(known, prior, observe)
    value, gradients = jax.jit(
        jax.value_and_grad(
            lambda params: (
                loss(params, Context({"x": pictures}, jax.random.key(0), 0, {}, params)).value
            )
        )
    )(params)
    assert abs(float(value) - bound.item()) < 1e-4 * bound.item(), (float(value), bound.item())
    theirs = {
        "encoder": as_jax(peer.encoder, lambda parameter: parameter.grad),
        "decoder": as_jax(peer.decoder, lambda parameter: parameter.grad),
    }
    for (path, a), b in zip(
        jax.tree.leaves_with_path(gradients), jax.tree.leaves(theirs), strict=True
    ):
        error = float(jnp.abs(a - b).max() / jnp.abs(b).max())
        assert error < 1e-4, f"{jax.tree_util.keystr(path)}: gradients differ by {error:.1e}"


def prior(params, posterior):
    return standard_normal(
        (posterior.noise if hasattr(posterior, "noise") else posterior.mean).shape
    )


def observe(batch, key):
    return batch["x"]


def steps(rows):
    """Three functions of a number of updates: ours one a call, ours `SCAN` a call, theirs."""
    torch.manual_seed(0)
    config = VAEConfig(input_dim=(1, 28, 28), latent_dim=LATENT, reconstruction_loss="bce")
    peer = VAE(config, encoder=Encoder(), decoder=Decoder())
    network = BinaryAutoencoder(LATENT, DenseEncoder(LATENT, HIDDEN), DenseDecoder(ITEM, HIDDEN))
    params = {
        "encoder": as_jax(peer.encoder, lambda parameter: parameter.detach()),
        "decoder": as_jax(peer.decoder, lambda parameter: parameter.detach()),
    }
    pictures = np.random.default_rng(0).integers(0, 2, (rows, *ITEM)).astype(np.float32)
    agree(network, params, peer, pictures)
    adam = torch.optim.Adam(peer.parameters(), lr=RATE, eps=EPSILON)
    data = {"data": torch.from_numpy(pictures.transpose(0, 3, 1, 2).copy())}

    def ours(repeats):
        optimizer = optax.adam(RATE, eps=EPSILON)
        loss = analytic_bound_loss(network.model, prior, observe)
        update = Update("autoencoder", loss, optimizer, repeats=repeats)
        step = jax.jit(make_train_step([update], jax.random.key(0)), donate_argnums=0)
        copied = jax.tree.map(jnp.copy, params)
        state = TrainState(jnp.int32(0), copied, {}, {"autoencoder": optimizer.init(copied)}, {})
        batch = {"x": np.repeat(pictures[None], repeats, axis=0)}

        def run(count):
            nonlocal state
            for _ in range(count // repeats):
                state, _, finite = step(state, batch)
            finite.block_until_ready()

        return run

    def theirs(count):
        for _ in range(count):
            adam.zero_grad()
            peer(data).loss.backward()
            adam.step()

    return ours(1), ours(SCAN), theirs


def main():
    chosen = side_by_side.arguments(__doc__).parse_args()
    side_by_side.share_threads(chosen.threads)
    for rows in (20, 100):
        one, scanned, theirs = steps(rows)
        for name, run in (("one update a call", one), (f"{SCAN} updates a call", scanned)):
            side_by_side.compare(
                f"batch {rows}, {name}", run, theirs, turns=chosen.turns, steps=200, warm_up=100
            )


if __name__ == "__main__":
    main()

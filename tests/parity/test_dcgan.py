"""A DCGAN step, both updates, and the same in PyTorch from the same weights and noise."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgen.experiment import Update
from jaxgen.families.gan.dcgan import DCGANDiscriminator, DCGANGenerator
from jaxgen.families.gan.game import Game
from jaxgen.nn.adversary import NON_SATURATING
from jaxgen.parallel.sharding import unbox
from jaxgen.training.state import TrainState
from jaxgen.training.step import make_train_step

torch = pytest.importorskip("torch")

LATENT, LOW, HIGH, SIDE, ROWS, RATE = 6, 8, 4, 12, 8, 2e-4


def peers():
    torch.manual_seed(0)
    nn, leaky = torch.nn, torch.nn.LeakyReLU(0.2)
    generator = nn.Sequential(
        nn.ConvTranspose2d(LATENT, LOW, SIDE // 4, bias=False), nn.BatchNorm2d(LOW), nn.ReLU(),
        nn.ConvTranspose2d(LOW, HIGH, 4, 2, 1, bias=False), nn.BatchNorm2d(HIGH), nn.ReLU(),
        nn.ConvTranspose2d(HIGH, 1, 4, 2, 1), nn.Tanh(),
    )  # fmt: skip
    discriminator = nn.Sequential(
        nn.Conv2d(1, HIGH, 4, 2, 1), leaky,
        nn.Conv2d(HIGH, LOW, 4, 2, 1, bias=False), nn.BatchNorm2d(LOW), leaky,
        nn.Conv2d(LOW, 1, SIDE // 4),
    )  # fmt: skip
    return generator, discriminator


def numpy_of(tensor):
    return tensor.detach().numpy().copy()


def norm(layer):
    return {"scale": numpy_of(layer.weight), "bias": numpy_of(layer.bias)}


def statistics(layer):
    return {"mean": numpy_of(layer.running_mean), "variance": numpy_of(layer.running_var)}


def convolution(layer):
    transposed = isinstance(layer, torch.nn.ConvTranspose2d)
    axes = (2, 3, 0, 1) if transposed else (2, 3, 1, 0)
    kernel = {"kernel": numpy_of(layer.weight).transpose(axes)}
    return kernel if layer.bias is None else kernel | {"bias": numpy_of(layer.bias)}


def as_jax(generator, discriminator):
    """PyTorch's weights and running statistics as jaxgen's parameters and variables."""
    projection = {"kernel": convolution(generator[0])["kernel"].transpose(2, 0, 1, 3)}
    params = {
        "generator": {
            "projection": projection,
            "norm_0": norm(generator[1]),
            "convolution_1": convolution(generator[3]),
            "norm_1": norm(generator[4]),
            "picture": convolution(generator[6]),
        },
        "discriminator": {
            "convolution_0": convolution(discriminator[0]),
            "convolution_1": convolution(discriminator[2]),
            "norm_1": norm(discriminator[3]),
            "logit": convolution(discriminator[5]),
        },
    }
    of_generator = {f"norm_{i}": statistics(generator[1 + 3 * i]) for i in range(2)}
    variables = {
        "generator": {"batch_stats": of_generator},
        "discriminator": {"batch_stats": {"norm_1": statistics(discriminator[3])}},
        "augmentation": {},
        "penalties": {},
    }
    return jax.tree.map(jnp.asarray, (params, variables))


def their_step(generator, discriminator, real, latents):
    """Both updates; running statistics as jaxgen keeps them, each moved by its own update."""
    entropy, ones, zeros = (
        torch.nn.functional.binary_cross_entropy_with_logits, torch.ones(ROWS), torch.zeros(ROWS),
    )  # fmt: skip
    adams = [
        torch.optim.Adam(each.parameters(), lr=RATE, betas=(0.5, 0.999))
        for each in (generator, discriminator)
    ]
    made = copy.deepcopy(generator)(latents[0]).detach()
    loss = entropy(discriminator(real).flatten(), ones)
    loss = loss + entropy(discriminator(made).flatten(), zeros)
    loss.backward()
    adams[1].step()
    judge = copy.deepcopy(discriminator)
    fooling = entropy(judge(generator(latents[1])).flatten(), ones)
    fooling.backward()
    adams[0].step()
    # An Adam step from nothing is as long for any gradient, so the gradients count too.
    return {
        "discriminator/loss": loss.item(),
        "discriminator/gradient_norm": norm_of_gradient(discriminator),
        "generator/loss": fooling.item(),
        "generator/gradient_norm": norm_of_gradient(generator),
    }


def norm_of_gradient(network):
    return float(sum((p.grad**2).sum() for p in network.parameters()) ** 0.5)


def test_a_step_is_pytorchs():
    game = Game(
        DCGANGenerator((SIDE, SIDE, 1), (LOW, HIGH)),
        DCGANDiscriminator((HIGH, LOW)),
        NON_SATURATING,
        LATENT,
    )
    peer = peers()
    real = np.random.default_rng(0).uniform(-1, 1, (ROWS, SIDE, SIDE, 1)).astype(np.float32)
    given = unbox(jax.eval_shape(game.init, jax.random.key(0), {"image": real}))
    params, variables = as_jax(*peer)
    assert jax.tree.structure((params, variables)) == jax.tree.structure(given)
    adam = optax.adam(RATE, b1=0.5)
    updates = [
        Update("discriminator", game.discriminator_loss, adam, moves="discriminator"),
        Update("generator", game.generator_loss, adam, moves="generator"),
    ]
    first = {name: adam.init({name: params[name]}) for name in params}
    state = TrainState(jnp.int32(0), params, variables, first, {})
    key = jax.random.key(1)
    # The game draws latents by the first of six keys of each update.
    latents = [
        np.asarray(game.latents(jax.random.split(update, 6)[0], ROWS))
        for index in range(2)
        for update in [jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(key, 0), index), 0)]
    ]
    state, metrics, _ = jax.jit(make_train_step(updates, key))(state, {"image": real[None]})
    measured = their_step(
        *peer,
        torch.tensor(real.transpose(0, 3, 1, 2)),
        [torch.tensor(latent)[:, :, None, None] for latent in latents],
    )
    assert {name: float(metrics[name]) for name in measured} == pytest.approx(measured, rel=1e-3)
    expected = as_jax(*peer)
    for (path, ours), theirs in zip(
        jax.tree.leaves_with_path((state.params, state.variables)),
        jax.tree.leaves(expected),
        strict=True,
    ):
        np.testing.assert_allclose(
            ours, theirs, rtol=1e-4, atol=1e-6, err_msg=jax.tree_util.keystr(path)
        )
    moved = jax.tree.map(
        lambda now, before: float(jnp.abs(now - before).max()), expected[0], params
    )
    assert min(jax.tree.leaves(moved)) > RATE / 2

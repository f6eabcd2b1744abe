"""A DCGAN step, both updates, and the same in PyTorch from the same weights and noise."""

import copy
import sys
from pathlib import Path

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

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import dcgan_step  # noqa: E402

# LOW and HIGH count channels, as the benchmark's do.
LATENT, LOW, HIGH, SIDE, ROWS, RATE = 6, 4, 8, 12, 8, 2e-4


def statistics(layer):
    return {
        "mean": jnp.asarray(layer.running_mean.numpy().copy()),
        "variance": jnp.asarray(layer.running_var.numpy().copy()),
    }


def as_jax(generator, discriminator):
    """PyTorch's weights and running statistics as jaxgen's parameters and variables."""
    params = dcgan_step.as_jax(generator, discriminator, lambda parameter: parameter.detach())
    of_generator = {f"norm_{i}": statistics(generator[1 + 3 * i]) for i in range(2)}
    variables = {
        "generator": {"batch_stats": of_generator},
        "discriminator": {"batch_stats": {"norm_1": statistics(discriminator[3])}},
        "augmentation": {},
        "penalties": {},
    }
    return params, variables


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
        DCGANGenerator((SIDE, SIDE, 1), (HIGH, LOW)),
        DCGANDiscriminator((LOW, HIGH)),
        NON_SATURATING,
        LATENT,
    )
    torch.manual_seed(0)
    peer = dcgan_step.peers(LATENT, LOW, HIGH, SIDE)
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

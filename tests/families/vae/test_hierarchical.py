import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxgen.errors import UserError
from jaxgen.evaluation.likelihood import importance_weighted_bound
from jaxgen.experiment import Context
from jaxgen.families.vae import hierarchical_objective as objective
from jaxgen.families.vae.gaussian import DiagonalGaussian
from jaxgen.families.vae.hierarchical import HierarchicalVAE
from jaxgen.families.vae.hierarchical_blocks import absolute, relative
from jaxgen.families.vae.objectives import constant

NETWORK = HierarchicalVAE(
    outputs=1, sizes=(2, 1), widths=(4, 6), groups=(2, 1), patch=2, latent=2, posterior=relative
)
PICTURE = jnp.sign(jax.random.normal(jax.random.key(0), (8, 4, 4, 1)))
KEY = jax.random.key(1)
LIKELIHOOD = objective.bernoulli_likelihood


def filled(network, zero=()):
    """Every parameter away from zero, but for those below a name in `zero`."""
    boxed = jax.eval_shape(network.init, KEY, PICTURE, KEY)["params"]
    generator = np.random.default_rng(0)

    def fill(path, leaf):
        if any(f"'{name}'" in jax.tree_util.keystr(path) for name in zero):
            return jnp.zeros(leaf.shape)
        return jnp.asarray(generator.normal(0, 0.4, leaf.shape), jnp.float32)

    return jax.tree_util.tree_map_with_path(fill, nn.unbox(boxed))


PARAMS = filled(NETWORK)


@jax.jit
def descend(params, picture, key):
    return NETWORK.apply({"params": params}, picture, key)


@jax.jit
def draw(key, temperatures):
    method = HierarchicalVAE.draw
    return NETWORK.apply({"params": PARAMS}, key, 8, temperatures, method=method)


@jax.jit
def partly(key, observed, temperature):
    method = HierarchicalVAE.partly
    return NETWORK.apply({"params": PARAMS}, PICTURE, key, observed, temperature, method=method)


def test_shapes_from_the_top_down():
    descent = descend(PARAMS, PICTURE, KEY)
    assert descent.outputs.shape == (8, 4, 4, 1)
    shapes = [draw.latent.shape for draw in descent.draws]
    assert shapes == [(1, 8, 1, 1, 2), (2, 8, 2, 2, 2)]


def test_a_residual_posterior_that_is_told_nothing_is_the_prior():
    params = filled(NETWORK, zero=("posterior",))
    terms = objective.bound(LIKELIHOOD, descend(params, PICTURE, KEY), PICTURE)
    np.testing.assert_array_equal(terms.divergence, jnp.zeros((8, 3)))
    prior, told = (DiagonalGaussian(jnp.full(2, x), jnp.full(2, -x)) for x in (1.0, 0.5))
    assert absolute(prior, told) is told
    np.testing.assert_allclose(relative(prior, told).mean, [1.5, 1.5])
    np.testing.assert_allclose(relative(prior, told).log_deviation, [-1.5, -1.5])


def test_the_bound_is_its_terms_and_the_mean_of_the_log_weights():
    descent = descend(PARAMS, PICTURE, KEY)
    terms = objective.bound(LIKELIHOOD, descent, PICTURE)
    metrics = objective.bound_metrics(terms, NETWORK.sizes, NETWORK.groups, 16)
    parts = [metrics[name] for name in ("reconstruction_error", "divergence_1", "divergence_2")]
    np.testing.assert_allclose(metrics["negative_elbo"], sum(parts), rtol=1e-5)
    np.testing.assert_allclose(
        metrics["bits_per_dimension"] * 16 * np.log(2), sum(parts), rtol=1e-5
    )
    np.testing.assert_allclose(metrics["divergence_1"], terms.divergence[:, 0].mean(), rtol=1e-5)

    # Σ log p - log q in place of the divergences in closed form, over many draws of every group.
    def both(key):
        terms = objective.bound(LIKELIHOOD, descend(PARAMS, PICTURE, key), PICTURE)
        return terms.total()

    keys = jax.random.split(jax.random.key(2), 3000)
    analytic = jax.jit(jax.vmap(both))(keys)
    weights = jax.jit(objective.log_weights(NETWORK, LIKELIHOOD), static_argnums=3)
    sampled = weights(PARAMS, jax.random.key(3), PICTURE, 3000)
    error = np.hypot(analytic.std(0), sampled.std(0)) / np.sqrt(3000)
    assert np.all(np.abs(analytic.mean(0) - sampled.mean(0)) < 5 * error)
    tighter = importance_weighted_bound(
        objective.log_weights(NETWORK, LIKELIHOOD), PARAMS, KEY, PICTURE, 3000, 3000, 8
    )
    assert np.all(tighter > sampled.mean(0))


def test_all_binary_pictures_of_a_prior_draw_have_mass_one_by_importance_weights():
    # 16 pictures of 2×2, as the mean of exp(log weight) is p(x): they must sum to 1.
    network = NETWORK.clone(sizes=(2, 1), patch=1, groups=(1, 1))
    bits = (np.arange(16)[:, None] >> np.arange(4)) & 1
    pictures = jnp.asarray(2.0 * bits - 1, jnp.float32).reshape(16, 2, 2, 1)
    boxed = jax.eval_shape(network.init, KEY, pictures, KEY)["params"]
    generator = np.random.default_rng(1)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(generator.normal(0, 0.25, leaf.shape), jnp.float32),
        nn.unbox(boxed),
    )
    weights = jax.jit(objective.log_weights(network, LIKELIHOOD), static_argnums=3)
    found = np.exp(np.asarray(weights(params, KEY, pictures, 4000), np.float64))
    error = np.sqrt((found.var(0) / 4000).sum())
    assert error < 0.02
    assert abs(found.mean(0).sum() - 1) < 5 * error


def test_draws_are_decided_by_their_key_and_at_temperature_0_by_none():
    cold, warm = jnp.zeros(2), jnp.ones(2)
    np.testing.assert_array_equal(
        draw(jax.random.key(4), cold).outputs, draw(jax.random.key(5), cold).outputs
    )
    first, again, other = (draw(jax.random.key(seed), warm).outputs for seed in (4, 4, 5))
    np.testing.assert_array_equal(first, again)
    assert not jnp.allclose(first, other)
    # The temperature of the topmost level, the last, reaches that level alone.
    top = draw(jax.random.key(4), jnp.array([0.0, 1.0])).draws
    np.testing.assert_array_equal(top[1].latent, top[1].prior.mean)
    assert not jnp.allclose(top[0].latent, top[0].prior.mean)


def test_groups_are_inferred_from_the_top_and_the_others_drawn():
    whole, none, some = descend(PARAMS, PICTURE, KEY), partly(KEY, 0, 1.0), partly(KEY, 1, 0.0)
    np.testing.assert_allclose(partly(KEY, 3, 0.3).outputs, whole.outputs, atol=1e-5)
    np.testing.assert_allclose(none.outputs, draw(KEY, jnp.ones(2)).outputs, atol=1e-5)
    np.testing.assert_allclose(some.draws[0].latent, whole.draws[0].latent, atol=1e-6)
    np.testing.assert_array_equal(some.draws[1].latent, some.draws[1].prior.mean)


def loss_of(params, picture, **changes):
    settings = {"beta": constant(1.0)} | changes
    loss = objective.hierarchical_loss(
        NETWORK, LIKELIHOOD, lambda batch, key: batch["image"], **settings
    )
    return loss(params, Context({"image": picture}, KEY, jnp.int32(0), {}, {}))


def test_free_nats_and_warm_up_change_the_value_and_not_what_is_logged():
    plain = loss_of(PARAMS, PICTURE)
    np.testing.assert_allclose(plain.value, plain.metrics["negative_elbo"], rtol=1e-5)
    without = loss_of(PARAMS, PICTURE, beta=constant(0.0))
    np.testing.assert_allclose(without.value, plain.metrics["reconstruction_error"], rtol=1e-5)
    # A λ above every divergence is paid once a group.
    free = loss_of(PARAMS, PICTURE, free_nats=1e4)
    np.testing.assert_allclose(free.value - without.value, 3e4, rtol=1e-5)
    np.testing.assert_allclose(free.metrics["negative_elbo"], plain.value, rtol=1e-5)


def test_eight_devices_have_the_loss_of_one():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    assert isinstance(mesh, Mesh)
    spread = jax.device_put(PICTURE, NamedSharding(mesh, PartitionSpec("data")))
    whole = jax.device_put(PARAMS, NamedSharding(mesh, PartitionSpec()))
    alone = jax.jit(lambda params, picture: loss_of(params, picture).value)
    np.testing.assert_allclose(alone(whole, spread), alone(PARAMS, PICTURE), rtol=1e-5)


def test_every_parameter_matters_and_carries_its_axes():
    slopes = jax.jit(jax.grad(lambda params: loss_of(params, PICTURE).value))(PARAMS)
    for path, slope in jax.tree_util.tree_leaves_with_path(slopes):
        assert jnp.max(jnp.abs(slope)) > 1e-7, jax.tree_util.keystr(path)
    boxed = jax.eval_shape(NETWORK.init, KEY, PICTURE, KEY)["params"]
    leaves = jax.tree.leaves(boxed, is_leaf=lambda leaf: isinstance(leaf, nn.LogicallyPartitioned))
    assert all(len(leaf.names) == leaf.value.ndim for leaf in leaves)


@pytest.mark.parametrize(
    "changes, named",
    [
        ({"sizes": (3, 2)}, "3×3"),
        ({"widths": (4,)}, "1 widths"),
        ({"groups": (0, 0)}, "at least one group"),
        ({"patch": 1}, "2×2"),
    ],
)
def test_levels_that_do_not_fit_are_named(changes, named):
    with pytest.raises(UserError, match=named):
        jax.eval_shape(NETWORK.clone(**changes).init, KEY, PICTURE, KEY)

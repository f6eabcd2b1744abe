import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgen.experiment import Context
from jaxgen.families.vae.gaussian import DiagonalGaussian
from jaxgen.families.vae.inverse_autoregressive import (
    InverseAutoregressiveFlow,
    InverseAutoregressivePosterior,
)
from jaxgen.families.vae.masked_autoencoder import MaskedAutoencoder, MaskedDense
from jaxgen.families.vae.objectives import (
    LatentVariableModel,
    Posterior,
    over_entries,
    sampled_bound_loss,
)
from jaxgen.families.vae.vamp_prior import PseudoInputs, VampPrior
from jaxgen.parallel.sharding import unbox

LATENT = jax.random.normal(jax.random.key(0), (3, 4))
CONTEXT = jax.random.normal(jax.random.key(1), (3, 2))


def started(network, *inputs, spread=0.0):
    """Parameters, each moved by noise: a network that has left its initialization."""
    params = jax.jit(lambda: unbox(network.init(jax.random.key(2), *inputs)))()
    noise = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: np.asarray(leaf + spread * noise.normal(size=leaf.shape), np.float32), params
    )


def jacobian(function, at):
    return np.asarray(jax.jit(jax.jacobian(function))(at))


def test_masked_layer_sees_what_its_degrees_allow():
    layer = MaskedDense((1, 2, 3), (0, 3, 2, 1))
    params = started(layer, jnp.zeros((1, 3)))
    seen = jacobian(lambda x: layer.apply(params, x), jnp.ones(3)) != 0
    np.testing.assert_array_equal(seen, [[0, 0, 0], [1, 1, 1], [1, 1, 0], [1, 0, 0]])


@pytest.mark.parametrize("reverse", [False, True])
def test_outputs_see_all_earlier_variables_and_no_others(reverse):
    network = MaskedAutoencoder(3, (16, 24), reverse)
    params = started(network, LATENT, CONTEXT, spread=0.1)
    found = jacobian(lambda z: network.apply(params, z[None], CONTEXT[:1])[0], LATENT[0])
    earlier = np.tril(np.ones((4, 4), bool), -1)
    expected = earlier.T if reverse else earlier
    np.testing.assert_array_equal(found != 0, np.broadcast_to(expected, (3, 4, 4)))


def test_every_output_hears_the_context():
    network = MaskedAutoencoder(2, (8,))
    params = started(network, LATENT, CONTEXT)
    heard = jacobian(lambda h: network.apply(params, LATENT[:1], h[None])[0], CONTEXT[0])
    assert np.all(heard != 0)


def test_one_context_serves_all_samples_of_its_row():
    network = MaskedAutoencoder(2, (8,))
    params = started(network, LATENT, CONTEXT)
    samples = jnp.stack([LATENT, 2 * LATENT])
    apply = jax.jit(lambda z: network.apply(params, z, CONTEXT))
    for sample, expected in zip(samples, apply(samples), strict=True):
        np.testing.assert_allclose(apply(sample), expected, atol=1e-6)


@pytest.mark.parametrize("width", [1, 4])
def test_a_step_has_a_triangular_jacobian_and_a_flow_a_full_one(width):
    latent = LATENT[:, :width]

    def of_steps(steps):
        flow = InverseAutoregressiveFlow(steps, (16,))
        params = started(flow, latent, CONTEXT, spread=0.3)
        return jacobian(lambda z: flow.apply(params, z[None], CONTEXT[:1])[0][0], latent[0])

    one = of_steps(1)
    np.testing.assert_array_equal(np.triu(one, 1), 0)
    assert np.all(one[np.tril_indices(width)] != 0)
    assert np.all(of_steps(2) != 0)


def test_log_density_is_the_bases_less_the_numerical_log_determinant():
    flow = InverseAutoregressiveFlow(3, (16, 16), forget_bias=1.0)
    params = started(flow, LATENT, CONTEXT, spread=0.3)
    apply = lambda z, h: flow.apply(params, z, h)
    base = DiagonalGaussian(0.5 * LATENT, 0.3 * LATENT[::-1])
    key = jax.random.key(5)
    posterior = InverseAutoregressivePosterior(base, CONTEXT, apply)
    bent, density = jax.jit(lambda: posterior.draw(key, 2))()
    assert isinstance(posterior, Posterior) and bent.shape == density.shape == (2, 3, 4)
    first, first_density = base.draw(key, 2)

    def one(z, row):
        return apply(z[None], CONTEXT[row][None])[0][0]

    jacobians = jax.jit(jax.vmap(jax.vmap(jax.jacobian(one), (0, 0)), (0, None)))
    found = np.asarray(jacobians(first, jnp.arange(3)), np.float64)
    assert found.shape == (2, 3, 4, 4)
    expected = np.asarray(first_density).sum(-1) - np.linalg.slogdet(found)[1]
    np.testing.assert_allclose(over_entries(density), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(jax.jit(apply)(first, CONTEXT)[0], bent, atol=1e-5)


def test_a_bent_density_integrates_to_one():
    """One variable, so that the flow can be undone: p(z) over a fine grid of where z came from."""
    flow = InverseAutoregressiveFlow(2, (8,))
    grid = jnp.linspace(-9, 9, 4001)[:, None, None]
    params = started(flow, grid, CONTEXT[:1], spread=0.5)
    bent, slopes = jax.jit(flow.apply)(params, grid, CONTEXT[:1])
    base = DiagonalGaussian(jnp.full((1, 1), 0.3), jnp.full((1, 1), -0.2))
    density = jnp.exp((base.log_probability(grid) - slopes).sum(-1))
    assert abs(np.trapezoid(density[:, 0], bent[:, 0, 0]) - 1) < 1e-4
    assert abs(np.trapezoid(density[:, 0], grid[:, 0, 0]) - 1) > 0.1  # it does bend


def test_a_flow_starts_by_shrinking_as_its_gates_say():
    flow = InverseAutoregressiveFlow(3, (16,), forget_bias=2.0)
    bent, slopes = jax.jit(flow.apply)(started(flow, LATENT, CONTEXT), LATENT, CONTEXT)
    gate = 1 / (1 + np.exp(-2.0))
    np.testing.assert_allclose(bent, gate**3 * LATENT, rtol=1e-5)
    np.testing.assert_allclose(slopes, np.full((3, 4), 3 * np.log(gate)), rtol=1e-5)


def test_a_flow_whose_gates_are_open_starts_as_the_identity():
    flow = InverseAutoregressiveFlow(3, (16,), forget_bias=20.0)
    bent, slopes = jax.jit(flow.apply)(started(flow, LATENT, CONTEXT), LATENT, CONTEXT)
    np.testing.assert_allclose(bent, LATENT, rtol=1e-6)
    np.testing.assert_allclose(slopes, np.zeros((3, 4)), atol=1e-6)


@pytest.mark.slow
def test_a_posterior_learns_what_no_gaussian_with_independent_entries_can():
    """The bound on log Z of two variables that hang together: a flow's comes closer."""

    def target(z):  # normalized: z₁ ~ N(0, 1), z₂ | z₁ ~ N(z₁²/2, ¼)
        first, second = z[..., 0], z[..., 1]
        given = jax.scipy.stats.norm.logpdf(second, jnp.square(first) / 2, 0.5)
        return jax.scipy.stats.norm.logpdf(first) + given

    def bound(steps):
        flow = InverseAutoregressiveFlow(steps, (16, 16))
        context = jnp.zeros((1, 1))
        params = {
            "flow": started(flow, jnp.zeros((1, 2)), context),
            "base": DiagonalGaussian(jnp.zeros((1, 2)), jnp.zeros((1, 2))),
        }
        optimizer = optax.adam(1e-2)

        def negative(params, key, samples):
            apply = lambda z, h: flow.apply(params["flow"], z, h)
            posterior = InverseAutoregressivePosterior(params["base"], context, apply)
            z, density = posterior.draw(key, samples)
            return jnp.mean(over_entries(density) - target(z))

        def step(carry, key):
            params, state = carry
            moves, state = optimizer.update(jax.grad(negative)(params, key, 64), state)
            return (optax.apply_updates(params, moves), state), None

        keys = jax.random.split(jax.random.key(0), 600)
        (params, _), _ = jax.jit(
            lambda: jax.lax.scan(step, (params, optimizer.init(params)), keys)
        )()
        return -jax.jit(negative, static_argnums=2)(params, jax.random.key(1), 4096)

    assert bound(0) < -0.25  # what the best of independent Gaussians leaves out
    assert -0.1 < bound(2) < 0.02


def test_the_bound_trains_flow_and_pseudo_inputs_and_weights_average_to_the_evidence():
    """x = z + noise under a prior of one pseudo-input: log p(x) is a Gaussian's, and known."""
    flow = InverseAutoregressiveFlow(2, (8,))
    pseudo_inputs = PseudoInputs(1, (4,), deviation=0.5)
    params = {
        "flow": started(flow, LATENT, LATENT, spread=0.1),
        "pseudo_inputs": started(pseudo_inputs),
    }

    def encode(pictures, log_deviation=-0.5):
        return DiagonalGaussian(pictures, jnp.full_like(pictures, log_deviation))

    model = LatentVariableModel(
        infer=lambda params, x: InverseAutoregressivePosterior(
            # Wider than the true posterior, so that no weight outweighs the others.
            encode(x, 0.2),
            x,
            lambda z, h: flow.apply(params["flow"], z, h),
        ),
        log_prior=lambda params, z: VampPrior(
            encode(pseudo_inputs.apply(params["pseudo_inputs"]))
        ).log_probability(z),
        log_likelihood=lambda params, x, z: over_entries(
            jax.scipy.stats.norm.logpdf(jnp.broadcast_to(x, z.shape), z)
        ),
    )
    loss = sampled_bound_loss(model, lambda batch, key: batch["image"], samples=512)
    context = Context({"image": LATENT}, jax.random.key(3), 0, {}, {})
    value, gradients = jax.jit(jax.value_and_grad(lambda params: loss(params, context).value))(
        params
    )
    pictures = np.asarray(pseudo_inputs.apply(params["pseudo_inputs"]))
    spread = np.sqrt(1 + np.exp(-1))
    evidence = jax.scipy.stats.norm.logpdf(np.asarray(LATENT) - pictures, scale=spread).sum(-1)
    weights = jax.jit(lambda: model.log_weights(params, jax.random.key(4), LATENT, 20_000))()
    estimated = jax.nn.logsumexp(weights, axis=0) - np.log(20_000)
    np.testing.assert_allclose(estimated, evidence, atol=0.05)
    assert -value < np.mean(evidence) - 0.1
    assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(gradients))

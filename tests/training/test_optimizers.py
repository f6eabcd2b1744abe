import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.contrib import MuonDimensionNumbers

from jaxgen.errors import UserError
from jaxgen.training import optimizers


def scanned_parameters():
    return {
        "layers": {
            "dense": {"kernel": jnp.full((3, 4, 8), 0.5), "bias": jnp.ones((3, 8))},
        },
        "token": {"embedding": jnp.ones((10, 4))},
        "norm": {"scale": jnp.ones(4)},
    }


@pytest.mark.parametrize("make", [optimizers.adamw, optimizers.lion, optimizers.adafactor])
def test_only_weights_decay(make):
    params = scanned_parameters()
    optimizer = make(0.1, weight_decay=0.5)
    zero = jax.tree.map(jnp.zeros_like, params)
    moves, _ = optimizer.update(zero, optimizer.init(params), params)
    moved = jax.tree.map(lambda m: bool(np.any(np.abs(m) > 1e-9)), moves)
    assert moved == {
        "layers": {"dense": {"kernel": True, "bias": False}},
        "token": {"embedding": True},
        "norm": {"scale": False},
    }


def test_clipping_bounds_the_norm_over_all_leaves():
    optimizer = optimizers.clipped(optax.sgd(1.0), 2.0)
    gradient = {"a": jnp.array([30.0]), "b": jnp.array([40.0])}
    moves, _ = optimizer.update(gradient, optimizer.init(gradient))
    np.testing.assert_allclose([moves["a"][0], moves["b"][0]], [-1.2, -1.6], rtol=1e-6)


def test_weights_stay_within_their_limit():
    optimizer = optimizers.weights_within(optax.sgd(1.0), 0.5)
    params = {"a": jnp.array([0.4, 0.4, 3.0]), "b": jnp.array([[-0.2]])}
    gradient = {"a": jnp.array([0.3, -0.3, 0.0]), "b": jnp.array([[0.4]])}
    moves, _ = optimizer.update(gradient, optimizer.init(params), params)
    moved = optax.apply_updates(params, moves)
    # An inner move is the optimizer's own; one that began outside is fetched in without a slope.
    np.testing.assert_allclose(moved["a"], [0.1, 0.5, 0.5], rtol=1e-6)
    np.testing.assert_allclose(moved["b"], [[-0.5]], rtol=1e-6)
    with pytest.raises(UserError, match="within 0: give a limit above 0"):
        optimizers.weights_within(optax.sgd(1.0), 0)


def kernels_of_layers(path):
    if path[0] == "layers" and path[-1] == "kernel":
        return MuonDimensionNumbers(1, 2)
    return None


def test_muon_takes_scanned_kernels_layer_by_layer_and_nothing_else():
    params = scanned_parameters()
    optimizer = optimizers.muon(1.0, kernels_of_layers, adam_learning_rate=0.0)
    gradient = jax.tree.map(
        lambda leaf: jax.random.normal(jax.random.key(leaf.size), leaf.shape), params
    )
    moves, _ = optimizer.update(gradient, optimizer.init(params), params)
    for left_to_adam in (moves["token"], moves["norm"], moves["layers"]["dense"]["bias"]):
        assert not any(np.any(leaf) for leaf in jax.tree.leaves(left_to_adam))
    # Newton–Schulz brings each layer's singular values near 1, times √(output/input).
    for layer in moves["layers"]["dense"]["kernel"]:
        values = np.linalg.svd(np.asarray(layer), compute_uv=False) / np.sqrt(8 / 4)
        assert values.min() > 0.6 and values.max() < 1.4
    # Each layer on its own: the same matrix alone moves the same way.
    alone = optimizers.muon(1.0, lambda path: MuonDimensionNumbers(0, 1), adam_learning_rate=0.0)
    one = {"kernel": gradient["layers"]["dense"]["kernel"][1]}
    move, _ = alone.update(one, alone.init(one), one)
    np.testing.assert_allclose(move["kernel"], moves["layers"]["dense"]["kernel"][1], atol=1e-5)


def test_muon_without_matrices_is_refused():
    with pytest.raises(UserError, match="no matrices"):
        optimizers.muon(1.0, lambda path: None, adam_learning_rate=0.1).init(scanned_parameters())


def test_schedules_meet_their_corners():
    cosine = optimizers.warmup_cosine(1.0, steps=100, warmup=10, final=0.1)
    assert cosine(0) == pytest.approx(1 / 11)
    assert cosine(10) == pytest.approx(1.0)
    assert cosine(100) == pytest.approx(0.1)
    trapezoid = optimizers.warmup_stable_decay(1.0, steps=100, warmup=10, decay=20)
    assert [float(trapezoid(n)) for n in (10, 50, 80)] == [1.0, 1.0, 1.0]
    assert trapezoid(90) == pytest.approx(0.5)
    assert trapezoid(100) == pytest.approx(0.0)


def test_a_cosine_may_rise_from_nothing_and_stays_at_its_end():
    rising = optimizers.cosine(0.0, 0.6, 10)
    found = [float(rising(update)) for update in (0, 5, 10, 20)]
    assert found == pytest.approx([0.0, 0.3, 0.6, 0.6], abs=1e-6)


def test_a_value_counts_half_after_its_half_life():
    decay = optimizers.half_life(lambda update: 100.0 * update, batch_size=20)
    assert float(decay(0)) == 0.0
    assert float(decay(1)) ** 5 == pytest.approx(0.5, rel=1e-5)
    assert float(optimizers.half_life(40.0, 20)(7)) ** 2 == pytest.approx(0.5, rel=1e-5)


def test_adams_b2_may_follow_a_schedule():
    slopes = [jnp.array([0.5, -2.0]), jnp.array([1.0, 0.1]), jnp.array([-3.0, 0.2])]
    optimizer = optimizers.adam(
        lambda update: 0.1 * (update + 1), b1=0.0, b2=lambda n: 0.9 + 0.03 * n
    )
    params = jnp.zeros(2)
    state, expected, second = optimizer.init(params), np.zeros(2), np.zeros(2)
    for n, slope in enumerate(slopes):
        move, state = optimizer.update(slope, state, params)
        params = optax.apply_updates(params, move)
        b2 = 0.9 + 0.03 * n
        second = b2 * second + (1 - b2) * np.square(slope)
        expected -= 0.1 * (n + 1) * np.asarray(slope) / np.sqrt(second / (1 - b2 ** (n + 1)))
    np.testing.assert_allclose(params, expected, rtol=1e-4)
    same = optimizers.adam(0.1, b1=0.0, b2=0.9).init(params)
    assert jax.tree.structure(same) == jax.tree.structure(optax.adam(0.1, 0.0, 0.9).init(params))


def test_rates_scale_each_leafs_whole_move():
    params = scanned_parameters()
    plain = optimizers.adamw(0.1, weight_decay=0.5)
    scaled = optimizers.scaled_rates(plain, lambda path: 0.25 if path[-1] == "kernel" else 1.0)
    slope = jax.tree.map(jnp.ones_like, params)
    moves, state = plain.update(slope, plain.init(params), params)
    found, kept = scaled.update(slope, scaled.init(params), params)
    kernel = moves["layers"]["dense"].pop("kernel")
    np.testing.assert_allclose(found["layers"]["dense"].pop("kernel"), 0.25 * kernel, rtol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, found, moves)
    jax.tree.map(np.testing.assert_array_equal, kept, state)

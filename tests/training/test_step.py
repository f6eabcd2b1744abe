"""The contracts, proven by trainings that belong to no family."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgen.errors import UserError
from jaxgen.experiment import Output, Update
from jaxgen.parallel.mesh import MeshShape, make_mesh
from jaxgen.training.state import initializer, random_keys
from jaxgen.training.step import make_train_step, reported


def train(init, updates, batches, mesh=None):
    """A state after as many steps as there are batches, and the metrics of each."""
    mesh = mesh or make_mesh(MeshShape(), jax.devices()[:1])
    first, key, _ = random_keys(0)
    create, _ = initializer(init, updates, mesh)(first, jax.tree.map(lambda x: x[0], batches[0]))
    state = create()
    chex.clear_trace_counter()
    step = jax.jit(chex.assert_max_traces(make_train_step(updates, key), n=1), donate_argnums=0)
    measured = []
    for batch in batches:
        state, metrics, finite = step(state, batch)
        assert finite
        measured.append(jax.device_get(metrics))
    return state, measured


def normal_rows(steps, repeats, rows, width, seed=0):
    numbers = np.random.default_rng(seed).normal(size=(steps, repeats, rows, width))
    return [{"x": step.astype(np.float32)} for step in numbers]


# 1. An adversarial pair: two losses, batch statistics, fresh batches, accumulated gradients.


def followed(statistics, x):
    """Running mean and variance, a tenth of the way to the batch's."""
    return {
        "mean": 0.9 * statistics["mean"] + 0.1 * x.mean(0),
        "variance": 0.9 * statistics["variance"] + 0.1 * x.var(0),
    }


def normalized(x, statistics):
    return (x - statistics["mean"][None]) / jnp.sqrt(statistics["variance"][None])


def adversarial_pair(accumulate=1):
    def generate(params, key, rows):
        return jax.random.normal(key, (rows, 2)) @ params["kernel"] + params["bias"][None]

    def judge(params, x):
        return (jnp.tanh(x @ params["hidden"]) @ params["out"])[:, 0]

    def init(key, batch):
        keys = jax.random.split(key, 3)
        params = {
            "generator": {"kernel": jax.random.normal(keys[0], (2, 2)), "bias": jnp.zeros(2)},
            "critic": {
                "hidden": jax.random.normal(keys[1], (2, 16)),
                "out": 0.1 * jax.random.normal(keys[2], (16, 1)),
            },
        }
        return params, {"mean": jnp.zeros(2), "variance": jnp.ones(2)}

    def critic_loss(params, context):
        variables = followed(context.variables, context.batch["x"])
        real = normalized(context.batch["x"], variables)
        fake = generate(params["generator"], context.key, len(real))
        fake = normalized(fake, variables)
        value = jax.nn.softplus(-judge(params["critic"], real)).mean()
        value += jax.nn.softplus(judge(params["critic"], fake)).mean()
        return Output(value, metrics={"first": context.batch["x"][0, 0]}, variables=variables)

    def generator_loss(params, context):
        fake = generate(params["generator"], context.key, len(context.batch["x"]))
        fake = normalized(fake, context.variables)
        value = jax.nn.softplus(-judge(params["critic"], fake)).mean()
        return Output(value, metrics={"first": context.batch["x"][0, 0]})

    updates = [
        Update("critic", critic_loss, optax.adam(1e-2), moves="critic", repeats=3),
        Update(
            "generator",
            generator_loss,
            optax.adam(1e-2),
            moves="generator",
            ema=0.999,
            accumulate=accumulate,
        ),
    ]
    return init, updates


def test_adversarial_pair_moves_each_part_by_its_own_loss():
    init, updates = adversarial_pair(accumulate=4)
    batches = normal_rows(steps=200, repeats=3, rows=32, width=2)
    for batch in batches:
        batch["x"] = batch["x"] * np.array([0.5, 2.0], np.float32) + np.array([3, -1], np.float32)
    state, _ = train(init, updates, batches)
    counts = {name: int(s[0].count) for name, s in state.optimizer_states.items()}
    assert counts == {"critic": 600, "generator": 200}
    # An average of averages 1 - (1-d)^n of the way: the statistics are the data's.
    np.testing.assert_allclose(state.variables["mean"], [3, -1], atol=0.5)
    np.testing.assert_allclose(state.variables["variance"], [0.25, 4], rtol=0.4)
    # The generator moved from N(0, KᵀK) towards the data's mean.
    assert np.abs(np.asarray(state.params["generator"]["bias"]) - [3, -1]).max() < 1.5
    assert set(state.ema) == {"generator"} and "critic" not in state.ema["generator"]


def test_repeats_see_fresh_batches_and_fewer_repeats_see_the_first():
    init, updates = adversarial_pair()
    batches = normal_rows(steps=1, repeats=3, rows=8, width=2)
    _, (metrics,) = train(init, updates, batches)
    firsts = batches[0]["x"][:, 0, 0]
    assert metrics["critic/first"] == pytest.approx(firsts.mean(), abs=1e-6)
    assert metrics["generator/first"] == pytest.approx(firsts[0], abs=1e-6)


@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_accumulated_gradient_is_the_weighted_mean(accumulate):
    def init(key, batch):
        return {"w": jnp.array([1.0, -2.0])}, {}

    def loss(params, context):
        x, weight = context.batch["x"], context.batch["weight"]
        value = jnp.sum(weight * (x @ params["w"] - 1) ** 2) / weight.sum()
        return Output(value, weight=weight.sum(), metrics={"weight": weight.mean()})

    batch = normal_rows(1, 1, 8, 2)[0]
    batch["weight"] = np.array([[1, 0, 2, 5, 1, 1, 3, 0.5]], np.float32)
    state, (metrics,) = train(
        init, [Update("all", loss, optax.sgd(0.1), accumulate=accumulate)], [batch]
    )
    x, weight = batch["x"][0], batch["weight"][0]
    w = np.array([1.0, -2.0])
    error = x @ w - 1
    gradient = 2 * (weight * error) @ x / weight.sum()
    np.testing.assert_allclose(state.params["w"], w - 0.1 * gradient, rtol=1e-5)
    np.testing.assert_allclose(metrics["all/loss"], (weight * error**2).sum() / weight.sum(), 1e-5)


# 2. A code-book that no gradient moves: k-means by moving averages, kept in `variables`.


def test_code_book_in_variables_finds_the_clusters():
    centres = np.array([[-4.0, 0.0], [4.0, 0.0], [0.0, 5.0]], np.float32)

    def init(key, batch):
        book = jnp.array([[-1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        return {"scale": jnp.ones(())}, {"sums": book, "counts": jnp.ones(3)}

    def loss(params, context):
        x, old = context.batch["x"], context.variables
        book = old["sums"] / old["counts"][:, None]
        nearest = jnp.argmin(((x[:, None] - book[None]) ** 2).sum(-1), axis=1)
        members = jax.nn.one_hot(nearest, 3)
        new = {
            "sums": 0.9 * old["sums"] + 0.1 * members.T @ x,
            "counts": 0.9 * old["counts"] + 0.1 * members.sum(0),
        }
        return Output(((params["scale"] * book[nearest] - x) ** 2).mean(), variables=new)

    rng = np.random.default_rng(1)
    batches = [
        {"x": (centres[rng.integers(0, 3, 32)] + rng.normal(0, 0.1, (32, 2)))[None].astype("f4")}
        for _ in range(150)
    ]
    state, _ = train(init, [Update("scale", loss, optax.sgd(1e-3))], batches)
    book = state.variables["sums"] / state.variables["counts"][:, None]
    np.testing.assert_allclose(book, centres, atol=0.1)


def test_variables_of_another_shape_are_refused():
    def loss(params, context):
        return Output(params["w"].sum(), variables={"count": jnp.zeros(2)})

    def init(key, batch):
        return {"w": jnp.ones(2)}, {"count": jnp.zeros(())}

    with pytest.raises(AssertionError, match="count"):
        train(init, [Update("all", loss, optax.sgd(1.0))], normal_rows(1, 1, 2, 2))


# 3. A target read from the moving average.


def test_target_from_the_average_and_its_warm_up():
    def init(key, batch):
        return {"online": {"w": jnp.zeros(())}, "other": {"w": jnp.full((), 7.0)}}, {}

    def loss(params, context):
        target = context.ema["online"]["w"] + 1.0
        assert context.ema["other"]["w"] is not None  # the tree is whole
        return Output(
            (params["online"]["w"] - target) ** 2, metrics={"target": context.ema["online"]["w"]}
        )

    updates = [Update("online", loss, optax.sgd(0.25), moves="online", ema=0.5)]
    state, measured = train(init, updates, normal_rows(6, 1, 2, 1))
    w = average = 0.0
    for n, metrics in enumerate(measured):
        assert metrics["online/target"] == pytest.approx(average, rel=1e-5)
        w -= 0.25 * 2 * (w - (average + 1.0))
        decay = min(0.5, (1 + n) / (10 + n))
        average = decay * average + (1 - decay) * w
    assert float(state.ema["online"]["online"]["w"]) == pytest.approx(average, rel=1e-5)
    assert float(state.params["other"]["w"]) == 7.0


# 4. A low-rank adapter moved by a predicate, everything else frozen.


def test_adapter_moves_alone_and_the_optimizer_holds_nothing_else():
    def init(key, batch):
        return {
            "dense": {
                "kernel": jnp.eye(3),
                "adapter": {"down": jax.random.normal(key, (3, 1)), "up": jnp.zeros((1, 3))},
            }
        }, {}

    wanted = np.eye(3) + np.outer([1.0, 0.0, 2.0], [0.5, -1.0, 0.0])

    def loss(params, context):
        dense = params["dense"]
        kernel = dense["kernel"] + dense["adapter"]["down"] @ dense["adapter"]["up"]
        x = context.batch["x"]
        return Output(((x @ kernel - x @ jnp.asarray(wanted, jnp.float32)) ** 2).mean())

    updates = [Update("adapter", loss, optax.adam(3e-2), moves=lambda path: "adapter" in path)]
    state, _ = train(init, updates, normal_rows(400, 1, 16, 3))
    dense = state.params["dense"]
    np.testing.assert_array_equal(dense["kernel"], np.eye(3))
    np.testing.assert_allclose(
        np.eye(3) + dense["adapter"]["down"] @ dense["adapter"]["up"], wanted, atol=0.05
    )
    moments = state.optimizer_states["adapter"][0].mu
    assert jax.tree.map(jnp.shape, moments) == {
        "dense": {"adapter": {"down": (3, 1), "up": (1, 3)}}
    }


def test_moving_nothing_is_refused_by_name():
    init, (critic, _) = adversarial_pair()
    lost = Update("critic", critic.loss, critic.optimizer, moves="kritik")
    with pytest.raises(UserError, match=r"'kritik' matches none.*critic, generator"):
        train(init, [lost], normal_rows(1, 3, 8, 2))


def test_every_runs_when_it_should_and_reports_only_then():
    def init(key, batch):
        return {"w": jnp.zeros(())}, {}

    def loss(params, context):
        return Output(params["w"])

    updates = [
        Update("always", loss, optax.sgd(1.0)),
        Update("lazy", loss, optax.sgd(100.0), every=3),
    ]
    state, measured = train(init, updates, normal_rows(7, 1, 2, 1))
    assert float(state.params["w"]) == -(7 + 2 * 100)
    ran = [set(reported(updates, metrics, step)) for step, metrics in enumerate(measured)]
    assert [("lazy/loss" in names) for names in ran] == [False, False, True] * 2 + [False]


def test_the_same_on_eight_devices_as_on_one():
    init, updates = adversarial_pair(accumulate=2)
    batches = normal_rows(steps=20, repeats=3, rows=16, width=2)
    alone, _ = train(init, updates, batches)
    mesh = make_mesh(MeshShape(data=4, fsdp=2))
    from jaxgen.parallel.sharding import batch_sharding

    placed = [jax.device_put(batch, batch_sharding(mesh)) for batch in batches]
    with jax.set_mesh(mesh):
        together, _ = train(init, updates, placed, mesh)
    chex.assert_trees_all_close(
        jax.device_get(alone.params), jax.device_get(together.params), rtol=2e-4, atol=2e-5
    )

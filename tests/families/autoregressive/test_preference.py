"""Preference learning against what its papers prove of it, on two answers and on sums by hand."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_models import WORDS, Bigrams, initial

from jaxgen.errors import UserError
from jaxgen.experiment import Context, Model, Update
from jaxgen.families.autoregressive.language_model import LanguageModel, language_model
from jaxgen.families.autoregressive.likelihood import next_token_loss, row_nats
from jaxgen.families.autoregressive.preference import (
    logistic,
    preference_loss,
    ranked,
    smoothed_logistic,
    squared,
    with_reference,
)
from jaxgen.nn.low_rank import is_adapter, without_adapters
from jaxgen.parallel.mesh import MeshShape, make_mesh
from jaxgen.training.state import initializer
from jaxgen.training.step import make_train_step

NETWORK = Bigrams()
MODEL = language_model(NETWORK)
NUMBERS = np.random.default_rng(0)
# Each token's logits of the next lie in a table; tokens 1 and 2 answer token 0.
TABULAR = LanguageModel(
    hidden=lambda params, seen, key: (params["table"][seen.tokens], {}),
    scores=lambda params, hidden: hidden,
)


def seen_in(batch):
    return Context(batch, jax.random.key(0), 0, {}, None)


def test_only_answers_move():
    """Fine-tuning on chats: `next_token_loss` with a mask that is True on answers."""
    params = initial(NETWORK)
    tokens = np.array([[0, 1, 2, 3, 4, 5, 6]], np.int32)  # prompt 0 1 2 3, answer 4 5 6
    mask = np.array([[False, False, False, True, True, True]])
    loss = next_token_loss(MODEL)
    slope = jax.jit(
        jax.grad(lambda params, mask: loss(params, seen_in({"tokens": tokens, "mask": mask})).value)
    )
    moved = np.abs(slope(params, mask)["table"]).max(-1) > 0
    assert set(np.flatnonzero(moved)) == {3, 4, 5}  # what predicts 4, 5 and 6
    everything = np.abs(slope(params, np.ones_like(mask))["table"]).max(-1) > 0
    assert set(np.flatnonzero(everything)) == {0, 1, 2, 3, 4, 5}


def pairs(rows=6, time=7):
    return {
        name: NUMBERS.integers(WORDS, size=(rows, time + 1)).astype(np.int32)
        for name in ("chosen", "rejected")
    } | {name: NUMBERS.random((rows, time)) < 0.6 for name in ("chosen_mask", "rejected_mask")}


def log_probability(params, tokens, mask):
    """Of each row's counted tokens together, in float64."""
    table, head = (np.asarray(params[name], np.float64) for name in ("table", "head"))
    scores = np.tanh(table[tokens[:, :-1]]) @ head
    each = np.take_along_axis(scores, tokens[:, 1:, None], 2)[..., 0]
    each = each - np.log(np.exp(scores).sum(-1))
    return np.where(mask, each, 0).sum(1)


def test_the_loss_is_equation_7():
    batch, beta = pairs(), 0.3
    params = {"policy": initial(NETWORK, 1), "reference": initial(NETWORK, 2)}
    gains = [
        log_probability(params["policy"], batch[name], batch[f"{name}_mask"])
        - log_probability(params["reference"], batch[name], batch[f"{name}_mask"])
        for name in ("chosen", "rejected")
    ]
    margins = gains[0] - gains[1]
    output = jax.jit(preference_loss(MODEL, beta=beta, chunk=3))(params, seen_in(batch))
    np.testing.assert_allclose(output.value, np.log1p(np.exp(-beta * margins)).mean(), rtol=1e-4)
    expected = {
        "accuracy": (margins > 0).mean(),
        "margin": beta * margins.mean(),
        "chosen_reward": beta * gains[0].mean(),
        "rejected_reward": beta * gains[1].mean(),
    }
    assert 0 < expected["accuracy"] < 1
    for name, metric in output.metrics.items():
        np.testing.assert_allclose(metric, expected.pop(name), rtol=1e-3, err_msg=name)
    assert not expected and output.weight == 6


def test_costs_of_a_margin():
    margins = np.array([-2.0, 0.5, 3.0])
    sigmoid = 1 / (1 + np.exp(-0.7 * margins))
    given = jnp.asarray(margins)
    np.testing.assert_allclose(logistic(given, 0.7), -np.log(sigmoid), rtol=1e-5)
    np.testing.assert_allclose(
        smoothed_logistic(0.2)(given, 0.7),
        -0.8 * np.log(sigmoid) - 0.2 * np.log(1 - sigmoid),
        rtol=1e-5,
    )
    np.testing.assert_allclose(squared(given, 0.7), (margins - 1 / 1.4) ** 2, rtol=1e-5)
    with pytest.raises(UserError, match=r"share of 0\.5 wrong pairs"):
        smoothed_logistic(0.5)


BETA, PREFERRED = 0.5, 0.75  # answer 1 is preferred to answer 2 in three of four pairs


@pytest.mark.parametrize(
    ("cost", "margin"),
    [
        # β (log π(1)/π_ref(1) - log π(2)/π_ref(2)) = r(1) - r(2), where p(1 ≻ 2) = σ(r(1) - r(2)):
        # Rafailov et al. 2023, equations 4 to 6.
        (logistic, np.log(3) / BETA),
        # A fifth turned around leaves 0.75·0.8 + 0.25·0.2 = 0.65.
        (smoothed_logistic(0.2), np.log(0.65 / 0.35) / BETA),
        # Azar et al. 2023: (p(1 ≻ 2) - 1/2) / τ.
        (squared, (PREFERRED - 0.5) / BETA),
    ],
    ids=["dpo", "cdpo", "ipo"],
)
def test_the_best_policy_for_two_answers_is_known(cost, margin):
    reference = jnp.asarray([[0.3, -0.4, 0.9], [0, 0, 0], [0, 0, 0]], jnp.float32)
    better, worse = np.array([[0, 1]] * 4, np.int32), np.array([[0, 2]] * 4, np.int32)
    turned = np.array([[False]] * 3 + [[True]])
    batch = {
        "chosen": np.where(turned, worse, better)[None],
        "rejected": np.where(turned, better, worse)[None],
        "chosen_mask": np.ones((1, 4, 1), bool),
        "rejected_mask": np.ones((1, 4, 1), bool),
    }
    loss = preference_loss(TABULAR, beta=BETA, cost=cost)
    rate = 0.2 if cost is squared else 8.0
    updates = [Update("policy", loss, optax.sgd(rate), moves="policy")]

    def init(key, batch):
        return with_reference({"table": reference}), {}

    mesh = make_mesh(MeshShape(), jax.devices()[:1])
    create, _ = initializer(init, updates, mesh)(jax.random.key(0), {})
    # Donated, as the loop does it: policy and reference must not share their memory.
    step = jax.jit(make_train_step(updates, jax.random.key(1)), donate_argnums=0)
    state = create()
    for _ in range(60):
        state, metrics, finite = step(state, batch)
    assert finite
    chex.assert_trees_all_equal(state.params["reference"]["table"], reference)
    table = np.asarray(state.params["policy"]["table"] - reference)[0]
    np.testing.assert_allclose(table[1] - table[2], margin, rtol=1e-4)
    np.testing.assert_allclose(metrics["policy/margin"], BETA * margin / 2, rtol=1e-3)
    assert metrics["policy/accuracy"] == PREFERRED


def test_a_policy_with_adapters_is_its_own_reference():
    """The base below the adapters is the reference; no second model is held."""
    table = jnp.asarray([[0.3, -0.4, 0.9]], jnp.float32)

    def hidden(params, seen, key):
        kernel = params["table"]["kernel"]
        if "lora_a" in params["table"]:
            adapter = params["table"]["lora_a"] @ params["table"]["lora_b"]
            kernel = kernel + params["table"]["lora_scale"] * adapter
        return kernel[seen.tokens], {}

    model = LanguageModel(hidden, lambda params, hidden: hidden)
    policy = {
        "kernel": table,
        "lora_a": jnp.full((1, 1), 0.5),
        "lora_b": jnp.asarray([[1.0, 2.0, -1.0]]),
        "lora_scale": jnp.asarray(2.0),
    }
    batch = {
        "chosen": np.array([[0, 1]], np.int32),
        "rejected": np.array([[0, 2]], np.int32),
        "chosen_mask": np.ones((1, 1), bool),
        "rejected_mask": np.ones((1, 1), bool),
    }
    loss = preference_loss(
        model, beta=0.1, reference=lambda params: without_adapters(params["policy"])
    )
    value = jax.value_and_grad(lambda params: loss(params, seen_in(batch)).value)
    found, slope = jax.jit(value)({"policy": {"table": policy}})
    # The adapter alone puts token 1 above token 2, by 2·0.5·(2 + 1).
    np.testing.assert_allclose(found, np.log1p(np.exp(-0.1 * 3.0)), rtol=1e-5)
    moved = {
        path[-1].key
        for path, leaf in jax.tree_util.tree_leaves_with_path(slope)
        if is_adapter(tuple(key.key for key in path)) and np.abs(leaf).max() > 0
    }
    assert moved == {"lora_a", "lora_b"}


def test_pairs_are_ranked_by_their_answers_alone():
    params = {part: initial(NETWORK, seed) for seed, part in enumerate(("policy", "reference"))}
    batch = pairs()

    class Pairs:
        __len__ = lambda self: 6
        __getitem__ = lambda self, rows: {name: leaf[rows] for name, leaf in batch.items()}

    model = Model(params, {})
    found = ranked(MODEL, "pairs", rows=4)(model, {"pairs": Pairs()}, jax.random.key(0))

    def log_probability(name, part, row):
        tokens, mask = batch[name][row], batch[f"{name}_mask"][row]
        logits = jnp.tanh(params[part]["table"]) @ params[part]["head"]
        table = np.asarray(jax.nn.log_softmax(logits))
        return table[tokens[:-1], tokens[1:]][mask].sum()

    likely, reward = [], []
    for row in range(6):
        policy, reference = (
            log_probability("chosen", part, row) - log_probability("rejected", part, row)
            for part in ("policy", "reference")
        )
        likely.append(policy > 0)
        reward.append(policy > reference)
    assert found == {"ranked": np.mean(likely), "rewarded": np.mean(reward)}


def test_the_likelihood_of_what_is_preferred_comes_beside():
    params = {part: initial(NETWORK, seed) for seed, part in enumerate(("policy", "reference"))}
    batch = pairs()
    plain, both = (
        preference_loss(MODEL, likelihood=weight)(params, seen_in(batch)) for weight in (0.0, 0.5)
    )
    chosen = {"tokens": batch["chosen"], "mask": batch["chosen_mask"]}
    nats = row_nats(MODEL, params["policy"], chosen) / batch["chosen_mask"].sum(1)
    assert float(both.value - plain.value) == pytest.approx(float(0.5 * nats.mean()), abs=1e-5)

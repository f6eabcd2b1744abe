"""Losses in chunks: the same as at once, in less memory, on one device or on eight."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from small_models import WIDTH, WORDS, Bigrams, initial

from jaxgen.errors import UserError
from jaxgen.experiment import Context, Model
from jaxgen.families.autoregressive.language_model import language_model
from jaxgen.families.autoregressive.likelihood import full_pass, next_token_loss, row_nats
from jaxgen.parallel.mesh import MeshShape, make_mesh

ROWS, TIME = 8, 11
NETWORK = Bigrams()
MODEL = language_model(NETWORK)
PARAMS = initial(NETWORK)
NUMBERS = np.random.default_rng(0)
BATCH = {
    "tokens": NUMBERS.integers(WORDS, size=(ROWS, TIME + 1)).astype(np.int32),
    "mask": NUMBERS.random((ROWS, TIME)) < 0.7,
}
EXTRAS = {"z_loss": 0.01, "label_smoothing": 0.1}


def value(loss, params, batch):
    seen = Context(batch=batch, key=jax.random.key(0), step=0, variables={}, ema=None)
    output = loss(params, seen)
    return output.value, output


def value_and_gradient(loss, params=PARAMS, batch=BATCH):
    run = jax.jit(jax.value_and_grad(partial(value, loss), has_aux=True))
    return run(params, batch)


def written_out(batch=BATCH):
    """The loss with its extras, from probabilities in float64, summed with a loop."""
    table, head = (np.asarray(PARAMS[name], np.float64) for name in ("table", "head"))
    losses, nats, squares, right = [], [], [], []
    for row, mask in zip(batch["tokens"], batch["mask"], strict=True):
        for seen, target in zip(row[:-1][mask], row[1:][mask], strict=True):
            scores = np.tanh(table[seen]) @ head
            partition = np.log(np.exp(scores).sum())
            nats.append(partition - scores[target])
            squares.append(partition**2)
            right.append(scores.argmax() == target)
            wanted = np.full(WORDS, 0.1 / WORDS)
            wanted[target] += 0.9
            losses.append(-(wanted * (scores - partition)).sum() + 0.01 * partition**2)
    return tuple(map(np.mean, (losses, nats, squares, right)))


@pytest.fixture(scope="module")
def at_once():
    return value_and_gradient(next_token_loss(MODEL, **EXTRAS))


def test_the_extras_are_what_their_papers_say(at_once):
    (found, output), _ = at_once
    loss, nats, squares, right = written_out()
    np.testing.assert_allclose(found, loss, rtol=1e-5)
    np.testing.assert_allclose(output.metrics["nats"], nats, rtol=1e-5)
    np.testing.assert_allclose(output.metrics["squared_log_partition"], squares, rtol=1e-5)
    np.testing.assert_allclose(output.metrics["accuracy"], right, rtol=1e-5)
    assert output.weight == BATCH["mask"].sum()


def test_a_loss_in_chunks_is_the_loss_at_once(at_once):
    (found, output), gradient = value_and_gradient(next_token_loss(MODEL, chunk=4, **EXTRAS))
    (whole, expected), slope = at_once
    np.testing.assert_allclose(found, whole, rtol=1e-6)
    for name, metric in expected.metrics.items():
        np.testing.assert_allclose(output.metrics[name], metric, rtol=1e-6, err_msg=name)
    for name in slope:
        np.testing.assert_allclose(gradient[name], slope[name], rtol=1e-5, atol=1e-7)


def sizes(jaxpr):
    """How many numbers each value holds that a program works out, those of inner programs too."""
    for equation in jaxpr.eqns:
        yield from (value.aval.size for value in equation.outvars if hasattr(value.aval, "size"))
        for parameter in jax.tree.leaves(
            tuple(equation.params.values()), is_leaf=lambda leaf: hasattr(leaf, "eqns")
        ):
            inner = getattr(parameter, "jaxpr", parameter)
            if hasattr(inner, "eqns"):
                yield from sizes(inner)


def test_all_scores_never_exist_together():
    """Neither forwards nor backwards is anything larger than one chunk's scores made."""
    time, chunk = 96, 4
    batch = {"tokens": np.zeros((ROWS, time + 1), np.int32)}

    def made(chunk):
        loss = next_token_loss(MODEL, chunk=chunk, **EXTRAS)
        program = jax.make_jaxpr(jax.value_and_grad(partial(value, loss), has_aux=True))
        return set(sizes(program(PARAMS, batch).jaxpr))

    assert max(made(None)) == ROWS * time * WORDS
    in_parts = made(chunk)
    assert ROWS * chunk * WORDS in in_parts
    assert max(in_parts) == ROWS * time * WIDTH < ROWS * time * WORDS


def test_each_device_keeps_its_rows(at_once):
    """Eight devices do as one does, and gather nobody's vectors or scores."""
    mesh = make_mesh(MeshShape(data=8))
    loss = next_token_loss(MODEL, chunk=4, **EXTRAS)
    (whole, _), slope = at_once
    batch = jax.device_put(BATCH, NamedSharding(mesh, PartitionSpec("data")))
    params = jax.device_put(PARAMS, NamedSharding(mesh, PartitionSpec()))
    run = jax.jit(jax.value_and_grad(partial(value, loss), has_aux=True)).lower(params, batch)
    program = run.compile()
    text = program.as_text()
    assert "all-reduce" in text
    assert not any(name in text for name in ("all-gather", "all-to-all", "collective-permute"))
    (found, _), gradient = program(params, batch)
    np.testing.assert_allclose(found, whole, rtol=1e-6)
    for name in slope:
        np.testing.assert_allclose(gradient[name], slope[name], rtol=1e-5, atol=1e-7)


def test_penalties_are_means_over_layers_and_weighed_by_name():
    network = Bigrams(penalties=(1.0, 3.0))
    model = language_model(network)
    params = PARAMS
    (plain, output), slope = value_and_gradient(next_token_loss(model), params)
    # Layers 0, 1, 2 times 1 and times 3: 2 on average; and the sum of the head, twice.
    total = PARAMS["head"].sum()
    np.testing.assert_allclose(output.metrics["load_balance"], 2.0)
    np.testing.assert_allclose(output.metrics["z"], 2 * total, rtol=1e-5)
    np.testing.assert_allclose(plain, output.metrics["nats"])
    weights = {"load_balance": 0.01, "z": 0.1}
    weighed = next_token_loss(model, penalties=weights)
    (found, _), gradient = value_and_gradient(weighed, params)
    np.testing.assert_allclose(found, plain + 0.02 + 0.2 * total, rtol=1e-5)
    np.testing.assert_allclose(gradient["head"], slope["head"] + 0.2, rtol=1e-5)
    with pytest.raises(UserError, match=r"no penalty 'entropy' to weigh; it has load_balance, z\."):
        value_and_gradient(next_token_loss(model, penalties={"entropy": 1.0}), params)


class Rows:
    """Items with their batch's leaves."""

    def __len__(self):
        return ROWS

    def __getitem__(self, indices):
        return {name: leaf[indices] for name, leaf in BATCH.items()}


def test_bits_per_byte_are_bits_over_the_bytes_that_were_predicted():
    token_bytes = np.arange(WORDS)  # token 0 ends a text, and is no byte of it
    score = full_pass(MODEL, "text", rows=3, chunk=4, token_bytes=token_bytes)
    found = score(Model(PARAMS, {}), {"text": Rows()}, jax.random.key(0))
    _, nats, _, _ = written_out()
    count, size = BATCH["mask"].sum(), BATCH["tokens"][:, 1:][BATCH["mask"]].sum()
    assert set(found) == {"nats", "perplexity", "bits_per_byte"}
    np.testing.assert_allclose(found["nats"], nats, rtol=1e-5)
    np.testing.assert_allclose(found["perplexity"], np.exp(nats), rtol=1e-5)
    np.testing.assert_allclose(found["bits_per_byte"], nats * count / np.log(2) / size, rtol=1e-5)


def test_the_nats_of_rows_add_up():
    each = jax.jit(partial(row_nats, MODEL, chunk=4))(PARAMS, BATCH)
    assert each.shape == (ROWS,)
    (_, nats, _, _), count = written_out(), BATCH["mask"].sum()
    np.testing.assert_allclose(jnp.sum(each) / count, nats, rtol=1e-5)

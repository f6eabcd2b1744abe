"""An NNX module under the one loop: the same numbers as by its own means, trained and resumed."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from flax import nnx
from nnx_toy import Classifier

from jaxgen.errors import UserError
from jaxgen.interop.nnx import from_nnx, initialized
from jaxgen.training import beginning, experiment_file, runs

X = jax.random.normal(jax.random.key(3), (8, 2))


@pytest.fixture(scope="module")
def network():
    return from_nnx(Classifier(nnx.Rngs(0)))


def test_its_state_is_plain_dicts(network):
    shapes = jax.tree.map(jnp.shape, network.params)
    layer = {"bias": (16,)}
    assert shapes == {
        "layers": {"0": layer | {"kernel": (2, 16)}, "1": layer | {"kernel": (16, 16)}},
        "norm": {"scale": (16,), "bias": (16,)},
        "out": {"kernel": (16, 2), "bias": (2,)},
    }
    # Statistics, and neither keys nor counts.
    assert jax.tree.map(jnp.shape, network.variables) == {"norm": {"mean": (16,), "var": (16,)}}


def test_evaluation_is_the_modules_own(network):
    module = Classifier(nnx.Rngs(0))
    module.eval()
    out, after = jax.jit(network.apply)(network.params, network.variables, X)
    np.testing.assert_allclose(out, module(X), rtol=1e-5, atol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, after, network.variables)


def test_training_moves_statistics_and_draws_from_the_key(network):
    apply = jax.jit(
        lambda key: network.apply(network.params, network.variables, X, key=key, train=True)
    )
    (first, after), (again, _), (other, _) = (apply(jax.random.key(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-2
    kernel, bias = (np.asarray(network.params["layers"]["0"][name]) for name in ("kernel", "bias"))
    seen = np.asarray(X) @ kernel + bias
    np.testing.assert_allclose(after["norm"]["mean"], 0.1 * seen.mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(after["norm"]["var"], 0.9 + 0.1 * seen.var(0), rtol=1e-4)


def test_another_method_is_called(network):
    first, _ = network.apply(
        network.params, network.variables, X, method=lambda module, x: module.layers[0](x)
    )
    layer = network.params["layers"]["0"]
    np.testing.assert_allclose(first, X @ layer["kernel"] + layer["bias"][None], rtol=1e-5)


def test_made_where_it_will_live():
    """Shapes alone say what the module is; its numbers come from the run's key."""
    shapes = from_nnx(nnx.eval_shape(lambda: Classifier(nnx.Rngs(0))))
    params, variables = jax.jit(initialized(Classifier))(jax.random.key(7), {})
    expected = from_nnx(Classifier(nnx.Rngs(jax.random.key(7)))).params
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), params, expected)
    out, _ = shapes.apply(params, variables, X)
    assert out.shape == (8, 2)


def test_a_module_without_parameters_is_refused():
    with pytest.raises(UserError, match=r"without an nnx\.Param"):
        from_nnx(nnx.Dropout(0.5, rngs=nnx.Rngs(0)))


def test_the_loop_trains_it_and_resumes_it_exactly(tmp_path):
    file = experiment_file.read(epath.Path(__file__).parent / "nnx_toy.py")
    run = beginning.begin(
        tmp_path / "run", file, "default", file.config_type(), beginning.Options(), {}, []
    )
    runs.carry_on(run)
    lines = (run.path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["train/accuracy"] > 0.95
    # As if it had been stopped after step 20.
    saved = sorted(path.name for path in run.checkpoints.iterdir())
    assert saved == ["20", "40"]
    first = runs.load(run.path)
    shutil.rmtree(Path(run.checkpoints / "40"))
    runs.carry_on(run)
    assert (run.path / "metrics.jsonl").read_text().splitlines() == lines
    again = runs.load(run.path)
    assert again.step == first.step == 40
    for name in ("params", "variables"):
        jax.tree.map(np.testing.assert_array_equal, getattr(again, name), getattr(first, name))

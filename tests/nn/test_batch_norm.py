import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.errors import UserError
from jaxgen.nn.batch_norm import ConditionalBatchNorm
from jaxgen.parallel.sharding import unbox

PICTURE = jax.random.normal(jax.random.key(0), (6, 3, 3, 4)) * 3 + 1
LABEL = jnp.array([0, 1, 2, 0, 1, 2])


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("classes", [0, 3])
def test_equal_rows_are_plain_batch_normalization(classes, train):
    ours = ConditionalBatchNorm(classes)
    plain = nn.BatchNorm(not train, momentum=0.9)
    variables = {}
    scale, shift = jnp.arange(1.0, 5.0), jnp.array([0.0, -1.0, 0.5, 2.0])
    running = {"mean": jnp.array([0.5, 1.0, 0.0, -1.0]), "var": jnp.arange(1.0, 5.0)}
    rows = (classes, 1) if classes else (1,)
    variables["params"] = {"scale": jnp.tile(scale, rows), "shift": jnp.tile(shift, rows)}
    variables["batch_stats"] = {"statistics": running}
    answer, after = jax.jit(
        lambda given: ours.apply(given, PICTURE, LABEL, train=train, mutable=["batch_stats"])
    )(variables)
    expected, beside = jax.jit(lambda given: plain.apply(given, PICTURE, mutable=["batch_stats"]))(
        {"params": {"scale": scale, "bias": shift}, "batch_stats": running}
    )
    np.testing.assert_allclose(answer, expected, rtol=1e-5, atol=1e-5)
    for name, leaf in beside["batch_stats"].items():
        np.testing.assert_allclose(after["batch_stats"]["statistics"][name], leaf, rtol=1e-6)


def test_each_picture_has_the_scale_and_shift_of_its_class():
    ours = ConditionalBatchNorm(3)
    variables = unbox(jax.jit(ours.init)(jax.random.key(1), PICTURE, LABEL))
    apply = jax.jit(ours.apply)
    normal = apply(variables, PICTURE, LABEL)
    scale = jax.random.normal(jax.random.key(2), (3, 4))
    variables["params"] = {"scale": scale, "shift": 2 * scale}
    answer = apply(variables, PICTURE, LABEL)
    rows = np.asarray(scale)[np.asarray(LABEL)][:, None, None]
    np.testing.assert_allclose(answer, rows * np.asarray(normal) + 2 * rows, rtol=1e-4, atol=1e-5)


def test_classes_without_labels_are_refused():
    with pytest.raises(UserError, match="3 classes needs a label for each picture"):
        ConditionalBatchNorm(3).init(jax.random.key(0), PICTURE)

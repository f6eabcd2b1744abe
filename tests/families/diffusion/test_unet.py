import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.errors import UserError
from jaxgen.families.diffusion.guidance import NO_CLASS
from jaxgen.families.diffusion.unet import UNet

NETWORK = UNet(1, (8, 16), blocks=1, head_dim=8, classes=3)
PICTURE = jax.random.normal(jax.random.key(0), (2, 8, 8, 1))
TIME, LABEL = jnp.array([0.2, 0.7]), jnp.array([0, 2])


@pytest.fixture(scope="module")
def boxed():
    """Shapes and axis names alone: compiling 90 initializers takes longer than all tests here."""
    return jax.eval_shape(NETWORK.init, jax.random.key(1), PICTURE, TIME, LABEL)


@pytest.fixture(scope="module")
def variables(boxed):
    """Every parameter away from zero, so that the zero layers don't hide the others."""
    generator = np.random.default_rng(0)

    def fill(leaf):
        spread = 0.3 if leaf.ndim == 1 else np.prod(leaf.shape[:-1]) ** -0.5
        return jnp.asarray(generator.normal(0, spread, leaf.shape), jnp.float32)

    return jax.tree.map(fill, nn.unbox(boxed))


apply = jax.jit(NETWORK.apply)


def test_every_parameter_matters(variables):
    slopes = jax.jit(
        jax.grad(lambda v: jnp.sum(jnp.square(NETWORK.apply(v, PICTURE, TIME, LABEL))))
    )(variables)
    for path, slope in jax.tree_util.tree_leaves_with_path(slopes):
        name = jax.tree_util.keystr(path)
        # A key's bias moves all scores of a query alike, which softmax doesn't see.
        if "['key']['bias']" not in name:
            assert jnp.max(jnp.abs(slope)) > 1e-6, name


def test_time_and_class_are_told_and_no_class_is_not(variables):
    base = apply(variables, PICTURE, TIME, LABEL)
    assert jnp.max(jnp.abs(apply(variables, PICTURE, TIME + 0.1, LABEL) - base)) > 1e-3
    assert jnp.max(jnp.abs(apply(variables, PICTURE, TIME, LABEL[::-1]) - base)) > 1e-3
    without = {**variables["params"], "class": {"kernel": jnp.zeros((3, 32))}}
    np.testing.assert_allclose(
        apply(variables, PICTURE, TIME, jnp.full(2, NO_CLASS)),
        apply({"params": without}, PICTURE, TIME, LABEL),
        atol=1e-6,
    )


def test_items_of_a_batch_do_not_meet(variables):
    both = apply(variables, PICTURE, TIME, LABEL)
    alone = apply(variables, PICTURE[1:], TIME[1:], LABEL[1:])
    np.testing.assert_allclose(both[1:], alone, atol=1e-5)


def test_every_place_sees_every_other(variables):
    # Through the lowest resolution's attention, whatever the convolutions' reach.
    corner = apply(variables, PICTURE.at[:, 0, 0].add(1.0), TIME, LABEL)
    assert jnp.min(jnp.abs(corner - apply(variables, PICTURE, TIME, LABEL))) > 0


def test_bfloat16_computes_about_the_same_and_answers_in_float32(variables):
    half = NETWORK.clone(dtype=jnp.bfloat16)
    answer = jax.jit(half.apply)(variables, PICTURE, TIME, LABEL)
    assert answer.dtype == jnp.float32
    full = apply(variables, PICTURE, TIME, LABEL)
    np.testing.assert_allclose(answer, full, atol=0.05 * float(jnp.max(jnp.abs(full))))


def test_parameters_carry_their_logical_axes(boxed):
    block = boxed["params"]["down_0_0"]
    names = block["convolution_in"]["kernel"].names
    assert names == (None, None, "channels_in", "channels_out")
    unnamed = [
        jax.tree_util.keystr(path)
        for path, leaf in jax.tree_util.tree_leaves_with_path(
            boxed, is_leaf=lambda leaf: isinstance(leaf, nn.LogicallyPartitioned)
        )
        if not isinstance(leaf, nn.LogicallyPartitioned) or len(leaf.names) != leaf.value.ndim
    ]
    assert not unnamed


def test_the_levels_that_attend_are_chosen():
    network = NETWORK.clone(blocks=2, attention=(1,))
    shapes = jax.eval_shape(network.init, jax.random.key(1), PICTURE, TIME, LABEL)["params"]
    found = {name for name in shapes if "attention" in name}
    assert found == {"middle_attention"} | {
        f"{way}_attention_1_{index}"
        for way, count in (("down", 2), ("up", 3))
        for index in range(count)
    }


@pytest.mark.parametrize(
    "network, picture, named",
    [
        (UNet(1, (8, 8, 8), blocks=1, head_dim=8), (1, 6, 8, 1), "6×8"),
        (UNet(1, (8, 12), blocks=1, head_dim=8), (1, 8, 8, 1), "12 channels"),
    ],
)
def test_shapes_that_do_not_fit_are_named(network, picture, named):
    with pytest.raises(UserError, match=named):
        jax.eval_shape(
            network.init, jax.random.key(0), jnp.zeros(picture), jnp.zeros(1), jnp.zeros(1, int)
        )

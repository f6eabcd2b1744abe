import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.data.sources import Arrays
from jaxgen.errors import UserError
from jaxgen.evaluation.classifier import Classifier
from jaxgen.evaluation.features import batches, read, read_in_batches
from jaxgen.parallel.mesh import MeshShape, make_mesh

NETWORK = Classifier(3, (8,), features=5)
PICTURES = np.random.default_rng(0).uniform(-1, 1, size=(21, 4, 4, 1)).astype(np.float32)


@pytest.fixture(scope="module")
def params():
    return nn.unbox(jax.jit(NETWORK.init)(jax.random.key(1), PICTURES))["params"]


def in_pieces(*sizes):
    """A generator, as samples come: it can be gone through once, and has no length."""
    ends = np.cumsum(sizes)
    yield from (PICTURES[end - size : end] for end, size in zip(ends, sizes, strict=True))


def test_batches_that_do_not_divide_change_nothing(params):
    logits, features = NETWORK.apply({"params": params}, jnp.asarray(PICTURES))
    labels, read_features = read(NETWORK, params, PICTURES, batch_size=8)
    np.testing.assert_array_equal(labels, np.argmax(logits, -1))
    np.testing.assert_allclose(read_features, features, atol=1e-5)


@pytest.mark.parametrize("shape", [MeshShape(), MeshShape(data=2, fsdp=2, tensor=2)], ids=str)
def test_eight_devices_read_what_one_reads(params, shape):
    labels, features = read(NETWORK, params, PICTURES, batch_size=8)
    with jax.set_mesh(make_mesh(shape)):
        assert jax.sharding.get_mesh().size == 8
        labels_8, features_8 = read(NETWORK, params, PICTURES, batch_size=5)  # taken as 8
    np.testing.assert_array_equal(labels_8, labels)
    np.testing.assert_allclose(features_8, features, atol=1e-5)


def test_the_work_is_split_over_all_devices():
    seen = []

    class Watching(nn.Module):
        @nn.compact
        def __call__(self, picture):
            jax.debug.inspect_array_sharding(picture, callback=seen.append)
            return picture.sum((1, 2)), picture.sum((1, 2))

    with jax.set_mesh(make_mesh(MeshShape())):
        list(read_in_batches(Watching(), {}, PICTURES, batch_size=8))
    (sharding,) = seen
    assert len(sharding.device_set) == 8 and not sharding.is_fully_replicated


def test_pieces_as_they_come_are_read_as_the_whole(params):
    labels, features = read(NETWORK, params, PICTURES, batch_size=8)
    for pictures in (
        in_pieces(1, 13, 7),
        [PICTURES[:2], PICTURES[2:]],
        jnp.asarray(PICTURES),
        Arrays({"image": PICTURES, "label": np.zeros(21, np.int32)}),
    ):
        some_labels, some = read(NETWORK, params, pictures, batch_size=8)
        np.testing.assert_array_equal(some_labels, labels)
        np.testing.assert_array_equal(some, features)


@pytest.mark.parametrize("sizes", [(21,), (1, 1, 19), (8, 8, 5), (3, 3, 3, 12)])
def test_pieces_of_any_size_become_the_same_batches(sizes):
    found = list(batches(in_pieces(*sizes), 8))
    assert [len(batch) for batch in found] == [8, 8, 5]
    np.testing.assert_array_equal(np.concatenate(found), PICTURES)


def test_no_more_is_drawn_than_is_being_read():
    drawn = []

    def draw():
        for index in range(10):
            drawn.append(index)
            yield PICTURES[:4]

    reading = batches(draw(), 4)
    for ahead in range(1, 4):
        next(reading)
        assert len(drawn) == ahead


def test_a_model_of_nothing_but_blank_pictures_is_still_read():
    for level in (-1.0, 0.0, 1.0):
        assert len(list(batches(np.full((3, 4, 4, 1), level, np.float32), 8))) == 1


@dataclasses.dataclass(frozen=True)
class Mistake:
    pictures: object
    message: str


@pytest.mark.parametrize(
    "mistake",
    [
        Mistake((PICTURES * 127 + 128).astype(np.uint8), "these are uint8: divide levels by 127.5"),
        Mistake(np.linspace(0, 255, 96).reshape(6, 4, 4, 1), r"these lie in \[0, 255\]: scale"),
        Mistake(np.linspace(0, 1, 96).reshape(6, 4, 4, 1), r"these lie in \[0, 1\]: scale"),
        Mistake(PICTURES[..., 0], r"and these are \(8, 4, 4\): reshape them"),
        Mistake([PICTURES, PICTURES[:, :2]], "All pictures of a set must have one shape"),
        Mistake(PICTURES[:0], "There are no pictures to look at"),
        Mistake([], "There are no pictures to look at"),
        Mistake(np.full((2, 4, 4, 1), np.nan, np.float32), "are not finite"),
    ],
    ids=lambda mistake: mistake.message[:30],
)
def test_mistakes_are_named(mistake):
    with pytest.raises(UserError, match=mistake.message):
        list(batches(mistake.pictures, 8))

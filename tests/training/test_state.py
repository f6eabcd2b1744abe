"""The first state, compiled quickly, is the state that every other compilation makes."""

import jax
import numpy as np
import optax
import pytest
from flax import linen as nn

from jaxgen.errors import UserError
from jaxgen.experiment import Output, Update
from jaxgen.parallel.mesh import MeshShape, make_mesh
from jaxgen.training.optimizers import adamw
from jaxgen.training.state import initializer

DRAWS = {
    "normal": nn.initializers.normal(0.02),
    "truncated": nn.initializers.lecun_normal(),
    "uniform": nn.initializers.glorot_uniform(),
}


def init(key, batch):
    keys = jax.random.split(key, len(DRAWS))
    drawn = zip(DRAWS.items(), keys, strict=True)
    return {name: {"kernel": draw(key, (96, 64))} for (name, draw), key in drawn}, {}


def test_compiling_quickly_changes_no_bit():
    updates = [Update("all", lambda params, context: Output(0.0), adamw(1e-3), ema=0.9)]
    create, _ = initializer(init, updates, make_mesh(MeshShape()))(jax.random.key(0), {})
    state = create()
    # As users compile everything else, which these tests don't.
    thorough = {"xla_backend_optimization_level": 3}
    expected, _ = jax.jit(init, compiler_options=thorough)(jax.random.key(0), {})
    for tree in (state.params, state.ema["all"]):
        for name, leaf in expected.items():
            np.testing.assert_array_equal(
                np.asarray(tree[name]["kernel"]).view(np.int32),
                np.asarray(leaf["kernel"]).view(np.int32),
                err_msg=name,
            )


def begin(pretrained, optimizer=None):
    optimizer = optimizer or adamw(1e-3)
    updates = [Update("all", lambda params, context: Output(0.0), optimizer, ema=0.9)]
    mesh = make_mesh(MeshShape(data=2, fsdp=4))
    return initializer(init, updates, mesh, pretrained)(jax.random.key(0), {})[0]()


def test_pretrained_weights_take_the_place_of_random_ones():
    weights = {"normal": {"kernel": np.full((96, 64), 7.0, np.float32)}}
    asked = []

    def pretrained(shapes):
        asked.append(shapes)
        return weights

    state = begin(pretrained)
    (shapes,) = asked
    assert shapes["uniform"]["kernel"].sharding.mesh.size == 8
    for tree in (state.params, state.ema["all"]):
        np.testing.assert_array_equal(tree["normal"]["kernel"], weights["normal"]["kernel"])
        assert np.std(tree["uniform"]["kernel"]) > 0
    # The state is donated to the train step: nothing in it may be shared.
    buffers = [
        leaf.addressable_shards[0].data.unsafe_buffer_pointer() for leaf in jax.tree.leaves(state)
    ]
    assert len(set(buffers)) == len(buffers)


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        (
            {"normal": {"kernel": np.zeros((96, 3))}},
            r"normal/kernel \(96, 3\) doesn't fit .* \(96, 64\)",
        ),
        ({"gamma": np.zeros(2)}, "gamma .* has no such parameter"),
    ],
)
def test_pretrained_weights_of_another_network_are_named(weights, sentence):
    with pytest.raises(UserError, match=sentence):
        begin(lambda shapes: weights)


def test_an_optimizer_that_copies_what_it_moves_copies_the_pretrained_weights():
    slow = optax.contrib.schedule_free_adamw(1e-3)
    weights = {"normal": {"kernel": np.full((96, 64), 7.0, np.float32)}}
    state = begin(lambda shapes: weights, slow)
    copies = [leaf for leaf in jax.tree.leaves(state.optimizer_states) if leaf.shape == (96, 64)]
    assert any(np.all(leaf == 7) for leaf in copies)

"""The first state, compiled quickly, is the state that every other compilation makes."""

import jax
import numpy as np
from flax import linen as nn

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
    expected, _ = jax.jit(init)(jax.random.key(0), {})
    for tree in (state.params, state.ema["all"]):
        for name, leaf in expected.items():
            np.testing.assert_array_equal(
                np.asarray(tree[name]["kernel"]).view(np.int32),
                np.asarray(leaf["kernel"]).view(np.int32),
                err_msg=name,
            )

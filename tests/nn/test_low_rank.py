"""Adapters: nothing at first, then the same as the kernels that they are merged into."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util
from flax.core import meta

from jaxgen.errors import UserError
from jaxgen.experiment import Output, Update
from jaxgen.nn.linear import Linear
from jaxgen.nn.low_rank import (
    adapted,
    adapters_only,
    is_adapter,
    merged,
    with_adapters,
    without_adapters,
)
from jaxgen.parallel.mesh import MeshShape, make_mesh
from jaxgen.parallel.sharding import batch_sharding
from jaxgen.training.state import initializer
from jaxgen.training.step import make_train_step

LAYERS, WIDTH, HEADS, DEPTH, RANK = 3, 8, 2, 4, 2


class Layer(nn.Module):
    """Maps to heads and back, as attention does, without looking anywhere."""

    @nn.compact
    def __call__(self, x, _):
        heads = Linear((HEADS, DEPTH), ("embed", "heads", "head_dim"), name="value")(x)
        names = ("heads", "head_dim", "embed")
        return x + Linear((WIDTH,), names, 2, False, name="out")(jnp.tanh(heads)), None


class Network(nn.Module):
    """Scanned layers, and a head that isn't scanned."""

    @nn.compact
    def __call__(self, x):
        scanned = nn.scan(
            Layer,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=LAYERS,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        x, _ = scanned(name="blocks")(x, None)
        return Linear((5,), ("embed", "vocab"), bias=False, name="head")(x)


NETWORK = Network()
X = jax.random.normal(jax.random.key(1), (16, WIDTH))
BOXED = jax.jit(NETWORK.init)(jax.random.key(0), X)["params"]
PARAMS = meta.unbox(BOXED)
RUN = jax.jit(lambda params: NETWORK.apply({"params": params}, X))


def everything(path):
    return True


def with_opinions(params, size=0.5):
    """The same adapters, their second factors no longer zero."""

    def fill(path, leaf):
        noise = size * jax.random.normal(jax.random.key(leaf.size), leaf.shape)
        return noise if path[-1].key == "lora_b" else leaf

    return jax.tree_util.tree_map_with_path(fill, params)


@pytest.fixture(scope="module")
def params():
    return adapted(PARAMS, jax.random.key(2), rank=RANK, alpha=6, targets=everything)


def test_adapters_have_their_kernels_axes(params):
    shapes = {
        "/".join(path): leaf.shape
        for path, leaf in traverse_util.flatten_dict(adapters_only(params)).items()
    }
    assert shapes == {
        "blocks/value/lora_a": (LAYERS, WIDTH, RANK),
        "blocks/value/lora_b": (LAYERS, RANK, HEADS, DEPTH),
        "blocks/value/lora_scale": (LAYERS,),
        "blocks/out/lora_a": (LAYERS, HEADS, DEPTH, RANK),
        "blocks/out/lora_b": (LAYERS, RANK, WIDTH),
        "blocks/out/lora_scale": (LAYERS,),
        "head/lora_a": (WIDTH, RANK),
        "head/lora_b": (RANK, 5),
        "head/lora_scale": (),
    }
    assert np.all(params["blocks"]["value"]["lora_scale"] == 3.0)


def test_an_adapter_changes_nothing_at_first_and_its_deviation_is_one_over_root_inputs(params):
    np.testing.assert_allclose(RUN(params), RUN(PARAMS), rtol=1e-6, atol=1e-7)
    wide = {"up": {"kernel": jnp.zeros((4, 64, 7))}}
    a = adapted(wide, jax.random.key(0), rank=32, alpha=1, targets=everything)["up"]["lora_a"]
    np.testing.assert_allclose(np.std(a), 1 / 8, rtol=0.03)


def test_merged_is_adapted(params):
    moved = with_opinions(params)
    whole = jax.jit(merged)(moved)
    assert jax.tree.structure(whole) == jax.tree.structure(PARAMS)
    np.testing.assert_allclose(RUN(whole), RUN(moved), rtol=1e-5, atol=1e-6)
    assert np.abs(RUN(moved) - RUN(PARAMS)).max() > 0.1
    # One kernel, written out: layer 1's way out of the heads.
    layer = {name: np.asarray(leaf[1]) for name, leaf in moved["blocks"]["out"].items()}
    expected = layer["kernel"] + 3.0 * np.einsum("hdr,rw->hdw", layer["lora_a"], layer["lora_b"])
    np.testing.assert_allclose(whole["blocks"]["out"]["kernel"][1], expected, rtol=1e-5, atol=1e-6)


def test_adapters_go_to_other_trees(params):
    moved = with_opinions(params)
    again = with_adapters(PARAMS, adapters_only(moved))
    jax.tree.map(np.testing.assert_array_equal, again, moved)
    jax.tree.map(np.testing.assert_array_equal, without_adapters(moved), PARAMS)
    with pytest.raises(UserError, match="an adapter for head, but no such kernel"):
        with_adapters({"blocks": PARAMS["blocks"]}, adapters_only(moved))


def test_the_names_of_axes_go_along():
    params = adapted(
        BOXED, jax.random.key(2), rank=RANK, alpha=1, targets=lambda path: "head" not in path
    )
    assert params["blocks"]["value"]["lora_a"].names == ("layers", "embed", None)
    assert params["blocks"]["value"]["lora_b"].names == ("layers", None, "heads", "head_dim")
    assert params["blocks"]["out"]["lora_a"].names == ("layers", "heads", "head_dim", None)
    assert params["blocks"]["out"]["lora_scale"].names == ("layers",)
    assert set(params["head"]) == {"kernel"}
    assert merged(params)["blocks"]["out"]["kernel"].names == BOXED["blocks"]["out"]["kernel"].names


def test_another_target_leaves_the_first_as_it_was(params):
    one = adapted(PARAMS, jax.random.key(2), rank=RANK, alpha=6, targets=lambda path: "out" in path)
    np.testing.assert_array_equal(one["blocks"]["out"]["lora_a"], params["blocks"]["out"]["lora_a"])


@pytest.mark.parametrize(
    ("rank", "targets", "said"),
    [
        (0, everything, "rank must be at least 1, not 0"),
        (1, lambda path: "attention" in path, r"picks none of the kernels, among them .*head/kern"),
    ],
)
def test_what_cannot_be_adapted_is_refused(rank, targets, said):
    with pytest.raises(UserError, match=said):
        adapted(PARAMS, jax.random.key(0), rank=rank, alpha=1, targets=targets)


def test_a_second_adapter_is_refused(params):
    with pytest.raises(UserError, match="has an adapter already: merge it first"):
        adapted(params, jax.random.key(0), rank=1, alpha=1, targets=everything)


def trained(mesh):
    """Five steps towards other outputs by the adapters alone; the state before and after."""

    def init(key, batch):
        return adapted(BOXED, key, rank=RANK, alpha=2, targets=everything), {}

    def loss(params, context):
        out = NETWORK.apply({"params": params}, context.batch["x"])
        return Output(jnp.square(out - context.batch["y"]).mean())

    updates = [Update("adapters", loss, optax.sgd(0.1), moves=is_adapter)]
    batch = {"x": X[None], "y": jax.random.normal(jax.random.key(3), (1, 16, 5))}
    create, _ = initializer(init, updates, mesh)(
        jax.random.key(4), jax.tree.map(lambda x: x[0], batch)
    )
    batch = jax.device_put(batch, batch_sharding(mesh))
    with jax.set_mesh(mesh):
        state = create()
        before = jax.device_get(state.params)
        step = jax.jit(make_train_step(updates, jax.random.key(5)))
        losses = []
        for _ in range(5):
            state, metrics, _ = step(state, batch)
            losses.append(float(metrics["adapters/loss"]))
    return before, state, losses


def test_adapters_alone_move_on_eight_devices_as_on_one():
    before, state, losses = trained(make_mesh(MeshShape(), jax.devices()[:1]))
    after = jax.device_get(state.params)
    assert losses[-1] < losses[0]
    for path, leaf in traverse_util.flatten_dict(after).items():
        same = np.array_equal(leaf, traverse_util.flatten_dict(before)[path])
        assert same != is_adapter(path), path
    _, together, _ = trained(make_mesh(MeshShape(data=2, fsdp=2, tensor=2)))
    placed = together.params["blocks"]["value"]["lora_a"].sharding.spec
    assert placed[1] == "fsdp"
    for path, leaf in traverse_util.flatten_dict(jax.device_get(together.params)).items():
        mine = traverse_util.flatten_dict(after)[path]
        np.testing.assert_allclose(leaf, mine, rtol=1e-4, atol=1e-6, err_msg="/".join(path))


def test_experts_take_no_adapter():
    """They multiply by kernels of their own, which no `Linear` adapts."""
    params = {
        "mlp": {
            "router": {"kernel": jnp.zeros((4, 3))},
            "up": {"kernel": jnp.zeros((3, 4, 8))},
        }
    }
    with pytest.raises(UserError, match="mlp/up/kernel is of experts"):
        adapted(params, jax.random.key(0), rank=2, alpha=1.0, targets=lambda path: True)

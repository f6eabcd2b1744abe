from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from jax.sharding import NamedSharding, PartitionSpec

from jaxgen.errors import UserError
from jaxgen.experiment import Output, Update
from jaxgen.parallel.layout import RULES, current_layout, layout_in_use, with_rules
from jaxgen.parallel.mesh import AXES, MeshShape, make_mesh
from jaxgen.parallel.sharding import (
    check_batch_size,
    gathered,
    local_rows,
    partition_spec,
)
from jaxgen.training.fingerprint import fingerprint
from jaxgen.training.state import initializer


def test_the_rest_of_the_devices():
    mesh = make_mesh(MeshShape(data=-1, fsdp=2, tensor=2))
    assert {axis: size for axis, size in mesh.shape.items() if size > 1} == {
        "data": 2,
        "fsdp": 2,
        "tensor": 2,
    }
    assert mesh.axis_names == AXES


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        (MeshShape(data=3), "data 3 does not fit 8 devices"),
        (MeshShape(data=-1, fsdp=3), "does not fit 8 devices"),
        (MeshShape(data=-1, fsdp=-1), "one of them may be -1"),
        (MeshShape(data=0), "every axis takes a positive number"),
    ],
)
def test_meshes_that_do_not_fit(shape, said):
    with pytest.raises(UserError, match=said):
        make_mesh(shape)


def test_rules_leave_whole_what_does_not_divide():
    mesh = make_mesh(MeshShape(data=2, fsdp=2, tensor=2))
    assert partition_spec(("embed", "mlp"), (8, 6), mesh) == PartitionSpec("fsdp", "tensor")
    assert partition_spec(("embed", "mlp"), (7, 6), mesh) == PartitionSpec(None, "tensor")
    assert partition_spec(("heads", "mlp"), (4, 6), mesh) == PartitionSpec("tensor", None)
    assert partition_spec(("experts", "embed"), (4, 8), mesh) == PartitionSpec(None, "fsdp")
    with pytest.raises(UserError, match="No sharding rule for the logical axis 'emded'"):
        partition_spec(("emded",), (8,), mesh)


def test_rules_are_replaced_in_one_line():
    mesh = make_mesh(MeshShape(data=1, fsdp=2, expert=2, tensor=2))
    names, shape = ("experts", "embed", "mlp"), (4, 8, 6)
    assert partition_spec(names, shape, mesh) == PartitionSpec("expert", "fsdp", "tensor")
    layout = with_rules({"experts": None, "mlp": ("tensor", "fsdp"), "mine": "sequence"})
    with layout_in_use(layout):
        assert current_layout() == layout
        # Six divides by tensor's two, not by four; fsdp is taken by then anyway.
        assert partition_spec(names, shape, mesh) == PartitionSpec(
            None, ("fsdp", "expert"), "tensor"
        )
    assert current_layout().places == RULES
    with pytest.raises(UserError, match="names the mesh axis 'tensr'; there are slices, stage"):
        with_rules({"mlp": "tensr"})
    with pytest.raises(UserError, match="'batch' is fixed"):
        with_rules({"batch": "data"})


@dataclass(frozen=True)
class Chip:
    """What a mesh looks at of a device that isn't here."""

    id: int
    slice_index: int = 0
    process_index: int = 0
    platform: str = "cpu"
    device_kind: str = "cpu"


def test_a_parameter_is_gathered_over_rows_before_its_use():
    mesh, spec = make_mesh(MeshShape(data=2, fsdp=2, tensor=2)), PartitionSpec("fsdp", "tensor")
    kernel = jax.device_put(jnp.ones((8, 6)), NamedSharding(mesh, spec))
    with jax.set_mesh(mesh):
        used = jax.jit(lambda kernel: gathered(kernel, ("embed", "mlp")))(kernel)
    assert used.sharding.spec == PartitionSpec(None, "tensor")
    assert gathered(kernel, ("embed", "mlp")) is kernel  # no mesh in use


def test_slices_stay_whole():
    chips = [Chip(number, slice_index=number % 2) for number in range(8)]
    mesh = make_mesh(MeshShape(slices=2, data=2, tensor=2), chips)
    for which in (0, 1):
        assert {chip.slice_index for chip in mesh.devices[which].flat} == {which}
    hosts = [Chip(number, process_index=number // 2) for number in range(8)]
    mesh = make_mesh(MeshShape(slices=4, data=2), hosts)
    assert [chip.process_index for chip in mesh.devices.flat] == [0, 0, 1, 1, 2, 2, 3, 3]
    with pytest.raises(UserError, match=r"8 slices can't be made of 2 slices .* divisor of 2"):
        make_mesh(MeshShape(slices=8), chips)


def test_batches_divide_over_data_and_fsdp():
    mesh = make_mesh(MeshShape(data=2, fsdp=2, tensor=2))
    check_batch_size(8, mesh)
    assert local_rows(8, mesh) == slice(0, 8)
    with pytest.raises(UserError, match=r"batch of 6 .* 4 devices \(data 2 × fsdp 2\)"):
        check_batch_size(6, mesh)


class Dense(nn.Module):
    @nn.compact
    def __call__(self, x):
        init = nn.with_logical_partitioning(nn.initializers.normal(1.0), ("embed", "mlp"))
        kernel = self.param("kernel", init, (8, 16))
        bias = self.param("bias", nn.initializers.zeros, (16,))
        return x @ kernel + bias[None]


def state_on(mesh):
    network = Dense()

    def init(key, batch):
        return network.init(key, batch["x"])["params"], {}

    def loss(params, context):
        return Output((network.apply({"params": params}, context.batch["x"]) ** 2).mean())

    updates = [Update("all", loss, optax.adamw(1e-2), ema=0.9)]
    with jax.set_mesh(mesh):
        create, abstract = initializer(init, updates, mesh)(
            jax.random.key(0), {"x": jnp.ones((1, 8))}
        )
        return create(), abstract


def test_the_state_is_created_sharded_moments_and_averages_with_their_parameters():
    state, abstract = state_on(make_mesh(MeshShape(data=2, fsdp=2, tensor=2)))
    split = PartitionSpec("fsdp", "tensor")
    moments = state.optimizer_states["all"][0]
    for kernel in (state.params, state.ema["all"], moments.mu, moments.nu):
        assert kernel["kernel"].sharding.spec == split
        assert kernel["kernel"].addressable_shards[0].data.shape == (4, 8)
    assert state.params["bias"].sharding.is_fully_replicated
    assert moments.count.sharding.is_fully_replicated
    assert jax.tree.map(lambda a: a.sharding, abstract) == jax.tree.map(lambda a: a.sharding, state)


def test_every_mesh_starts_from_the_same_numbers_and_fingerprint():
    one, _ = state_on(make_mesh(MeshShape(), jax.devices()[:1]))
    eight, _ = state_on(make_mesh(MeshShape(data=2, fsdp=2, tensor=2)))
    np.testing.assert_array_equal(one.params["kernel"], eight.params["kernel"])
    assert fingerprint(one) == fingerprint(eight)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "uint8", "bool"])
def test_fingerprints_see_every_bit_and_place(dtype):
    array = (np.arange(24) % 7).reshape(4, 6).astype(jnp.dtype(dtype))
    prints = {tuple(fingerprint(jnp.asarray(array)))}
    changed = array.copy()
    changed[1, 2] = not changed[1, 2]
    swapped = array.copy()
    swapped[0, [0, 1]] = swapped[0, [1, 0]]
    prints |= {tuple(fingerprint(jnp.asarray(x))) for x in (changed, swapped)}
    assert len(prints) == 3

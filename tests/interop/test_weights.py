"""A made-up network's leaves, out and in again, on one device and on a mesh of eight."""

import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from jax.sharding import NamedSharding, PartitionSpec
from safetensors.numpy import load_file

from jaxgen.errors import UserError
from jaxgen.interop.checkpoint_files import Tensor, read_tensors, write
from jaxgen.interop.weights import (
    Entry,
    Table,
    from_heads,
    heads_bias,
    linear,
    load,
    same,
    tensors_of,
    to_heads,
)
from jaxgen.parallel.mesh import MeshShape, make_mesh

LAYERS, EXPERTS, HEADS = 3, 4, 4
RANDOM = np.random.default_rng(0)
SHAPES = {
    "tokens/embedding": (12, 8),
    "blocks/norm/scale": (LAYERS, 8),
    "blocks/query/kernel": (LAYERS, 8, HEADS, 2),
    "blocks/query/bias": (LAYERS, HEADS, 2),
    "blocks/out/kernel": (LAYERS, HEADS, 2, 8),
    "blocks/mlp/up/kernel": (LAYERS, EXPERTS, 8, 16),
    "blocks/gate/kernel": (LAYERS, 8, 6),
    "blocks/value/kernel": (LAYERS, 8, 6),
}
SPECS = {
    "tokens/embedding": ("tensor", "fsdp"),
    "blocks/query/kernel": (None, "fsdp", "tensor", None),
    "blocks/out/kernel": (None, "tensor", None, "fsdp"),
    # Experts over devices: a tensor is then written by the devices that hold its expert.
    "blocks/mlp/up/kernel": (None, "fsdp", None, "tensor"),
}
PARAMS = {path: RANDOM.normal(size=shape).astype(np.float32) for path, shape in SHAPES.items()}
TABLE = Table(
    (
        same("tokens/embedding", "model.embed.weight"),
        same("blocks/norm/scale", "model.layers.{layer}.norm.weight"),
        to_heads("blocks/query/kernel", "model.layers.{layer}.q.weight", HEADS),
        heads_bias("blocks/query/bias", "model.layers.{layer}.q.bias", HEADS),
        from_heads("blocks/out/kernel", "model.layers.{layer}.o.weight", HEADS),
        linear("blocks/mlp/up/kernel", "model.layers.{layer}.experts.{expert}.w1.weight"),
        Entry(
            ("blocks/gate/kernel", "blocks/value/kernel"),
            "model.layers.{layer}.both.weight",
            lambda array: tuple(np.split(array, 2, axis=1)),
            lambda arrays: jnp.concatenate(arrays, axis=1),
        ),
    ),
    renamed=lambda name: None if name.endswith("mask") else "model." + name.removeprefix("model."),
    copies={"model.head.weight": "model.embed.weight"},
)
MESHES = [None, MeshShape(data=1, fsdp=2, tensor=4), MeshShape(data=2, fsdp=4)]


def abstract(shape=None, dtype=jnp.float32):
    mesh = None if shape is None else make_mesh(shape)

    def leaf(path):
        place = None if mesh is None else NamedSharding(mesh, PartitionSpec(*SPECS.get(path, ())))
        return jax.ShapeDtypeStruct(SHAPES[path], dtype, sharding=place)

    return traverse_util.unflatten_dict({path: leaf(path) for path in SHAPES}, sep="/")


def placed(like):
    return jax.tree.map(
        lambda value, leaf: jax.device_put(value, leaf.sharding),
        traverse_util.unflatten_dict(PARAMS, sep="/"),
        like,
    )


def tensor(name, array):
    return Tensor(name, array.shape, array.dtype, lambda rows=None: array[rows or slice(None)])


@pytest.fixture(scope="module")
def theirs():
    """The tensors as PyTorch's modules would lay them out, written down independently."""
    made = {"model.embed.weight": PARAMS["tokens/embedding"]}
    for layer in range(LAYERS):
        at = {path: value[layer] for path, value in PARAMS.items()}
        name = f"model.layers.{layer}."
        made[name + "norm.weight"] = at["blocks/norm/scale"]
        # y = W·x with head h in the rows h·depth to (h+1)·depth
        query = np.stack([at["blocks/query/kernel"][:, h].T for h in range(HEADS)])
        made[name + "q.weight"] = query.reshape(8, 8)
        made[name + "q.bias"] = np.concatenate(list(at["blocks/query/bias"]))
        made[name + "o.weight"] = np.concatenate([k.T for k in at["blocks/out/kernel"]], axis=1)
        for expert in range(EXPERTS):
            up = at["blocks/mlp/up/kernel"][expert].T
            made[f"{name}experts.{expert}.w1.weight"] = up
        gate, value = at["blocks/gate/kernel"], at["blocks/value/kernel"]
        made[name + "both.weight"] = np.concatenate([gate, value], axis=1)
    return {name: np.ascontiguousarray(array) for name, array in made.items()}


@pytest.fixture
def tensors(theirs):
    return {name: tensor(name, array) for name, array in theirs.items()}


@pytest.mark.parametrize("shape", MESHES)
def test_tensors_come_to_lie_where_they_belong(tensors, shape):
    like = abstract(shape)
    found = traverse_util.flatten_dict(load(tensors, TABLE, like), sep="/")
    assert found.keys() == SHAPES.keys()
    for path, leaf in traverse_util.flatten_dict(like, sep="/").items():
        np.testing.assert_array_equal(found[path], PARAMS[path])
        assert found[path].dtype == jnp.float32
        if shape is not None:
            assert found[path].sharding.is_equivalent_to(leaf.sharding, len(leaf.shape))


@pytest.mark.parametrize("shape", MESHES[:2])
def test_the_way_back(theirs, shape):
    made = tensors_of(placed(abstract(shape)), TABLE)
    assert [each.name for each in made][:3] == [
        "model.embed.weight",
        "model.layers.0.norm.weight",
        "model.layers.1.norm.weight",
    ]
    assert {each.name: each.shape for each in made} == {n: a.shape for n, a in theirs.items()}
    for each in made:
        np.testing.assert_array_equal(each.read(), theirs[each.name])
        assert each.dtype == np.float32
    np.testing.assert_array_equal(made[0].read(slice(1, 3)), theirs[made[0].name][1:3])


def test_other_dtypes_are_converted(theirs):
    rounded = {n: tensor(n, a.astype(jnp.bfloat16)) for n, a in theirs.items()}
    found = traverse_util.flatten_dict(load(rounded, TABLE, abstract()), sep="/")
    for path, leaf in found.items():
        assert leaf.dtype == jnp.float32
        np.testing.assert_array_equal(leaf, PARAMS[path].astype(jnp.bfloat16).astype(np.float32))
    made = tensors_of(placed(abstract()), TABLE, jnp.bfloat16)
    assert made[0].read().dtype == made[0].dtype == jnp.bfloat16


def test_prefixes_buffers_and_copies(tensors):
    short = {name.removeprefix("model."): each for name, each in tensors.items()}
    short["layers.0.mask"] = tensor("layers.0.mask", np.zeros((4, 4)))
    short["head.weight"] = tensor("head.weight", PARAMS["tokens/embedding"].copy())
    found = load(short, TABLE, abstract())
    np.testing.assert_array_equal(found["tokens"]["embedding"], PARAMS["tokens/embedding"])
    other = PARAMS["tokens/embedding"] + (np.arange(12) == 11)[:, None]
    short["head.weight"] = tensor("head.weight", other.astype(np.float32))
    with pytest.raises(UserError, match=r"head\.weight is another tensor than model\.embed\.weig"):
        load(short, TABLE, abstract())
    short["head.weight"] = tensor("head.weight", np.zeros((3, 8), np.float32))
    with pytest.raises(UserError, match=r"head\.weight is another tensor"):
        load(short, TABLE, abstract())


def test_what_does_not_belong_is_named(tensors):
    without = {name: each for name, each in tensors.items() if "layers.1." not in name}
    with pytest.raises(UserError, match=r"no tensor model\.layers\.1\.norm\.weight \(and 8 more\)"):
        load(without, TABLE, abstract())
    more = tensors | {"extra.weight": tensor("extra.weight", np.zeros(3))}
    with pytest.raises(UserError, match=r"no place for the tensor extra\.weight:"):
        load(more, TABLE, abstract())
    name = "model.layers.2.q.weight"
    wrong = tensors | {name: tensor(name, np.zeros((8, 9), np.float32))}
    said = r"tensor model\.layers\.2\.q\.weight is \(8, 9\), .* should be \(8, 8\)"
    with pytest.raises(UserError, match=said):
        load(wrong, TABLE, abstract())


def test_other_trees_are_named(tensors):
    with pytest.raises(UserError, match="tokens/embedding has no place in the other library"):
        load(tensors, Table(TABLE.entries[1:]), abstract())
    with pytest.raises(UserError, match="no positions/embedding"):
        table = Table((*TABLE.entries, same("positions/embedding", "model.positions.weight")))
        tensors_of(traverse_util.unflatten_dict(PARAMS, sep="/"), table)
    adapted = PARAMS | {"blocks/query/lora_a": np.zeros((LAYERS, 8, 2))}
    with pytest.raises(UserError, match="query/lora_a is an adapter: merge"):
        tensors_of(traverse_util.unflatten_dict(adapted, sep="/"), TABLE)


def test_the_host_never_holds_more_than_two_of_the_largest_files(tmp_path, theirs):
    """Its own memory by tracemalloc, which sees numpy's arrays and what files are read into."""
    layers, width = 24, 256
    whole = {f"layers.{n}.w": np.full((width, width), n, np.float32) for n in range(layers)}
    names = list(whole)
    size = width * width * 4
    write(tmp_path / "new", {}, [tensor(name, whole[name]) for name in names], None, 3 * size)
    files = list((tmp_path / "new").glob("*.safetensors"))
    largest = max(file.stat().st_size for file in files)
    assert len(files) == layers / 3
    table = Table((linear("w", "layers.{layer}.w"),))
    mesh = make_mesh(MeshShape(data=1, fsdp=2, tensor=4))
    place = NamedSharding(mesh, PartitionSpec(None, "fsdp", "tensor"))
    like = {"w": jax.ShapeDtypeStruct((layers, width, width), np.float32, sharding=place)}
    for each in tensors_of(load(read_tensors(tmp_path / "new"), table, like), table):
        each.read()  # compiles, which takes memory too
    tracemalloc.start()
    try:
        found = load(read_tensors(tmp_path / "new"), table, like)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        start, _ = tracemalloc.get_traced_memory()
        write(tmp_path / "again", {}, tensors_of(found, table), None, 3 * size)
        _, written = tracemalloc.get_traced_memory()
        everything = [each.read() for each in read_tensors(tmp_path / "again").values()]
        _, held = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(found["w"][:, 5, 7], np.arange(layers))
    assert size < peak < 2 * largest  # the first: it does see what is read
    assert written - start < 2 * largest
    assert held > layers * size
    assert len(everything) == layers
    for file in files:
        again = load_file(tmp_path / "again" / file.name)
        for name, array in load_file(file).items():
            np.testing.assert_array_equal(again[name], array)

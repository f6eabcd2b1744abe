"""The correspondence between our leaves and another library's tensors, as data; weights by it.

Loading goes straight into leaves that lie where their shardings say: each is made of zeros on the
devices, and each tensor is written into its place there as soon as it is read, so that the host
holds one tensor at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.sharding import NamedSharding, PartitionSpec, Sharding

from jaxgen.errors import UserError
from jaxgen.experiment import Params
from jaxgen.interop.checkpoint_files import Tensor
from jaxgen.nn.low_rank import is_adapter

Arrays = tuple[Any, ...]


@dataclass(frozen=True)
class Entry:
    """One kind of their tensors, and the leaves of ours that it holds.

    ours: paths in our tree, such as "blocks/attention/query/kernel".
    theirs: its name. Where that has {layer}, each tensor holds one index of our leaves' first axis;
        with {layer} and {expert}, of their first two.
    to_ours: their array as our arrays, without those axes; for numpy, and best by views.
    to_theirs: our arrays as theirs; for jax.numpy, and compiled anew for every other function.
    """

    ours: tuple[str, ...]
    theirs: str
    to_ours: Callable[[np.ndarray], Arrays]
    to_theirs: Callable[[Arrays], Any]


@dataclass(frozen=True)
class Table:
    """How a network's leaves are called and laid out in another library's files.

    entries: every leaf in one of them.
    renamed: turns a name in a file into one of the entries' (prefixes that some files have), or
        None for what isn't needed (buffers that are computed anew).
    copies: names of tensors that repeat another one (tied heads), and which; refused if they don't.
    """

    entries: tuple[Entry, ...]
    renamed: Callable[[str], str | None] = lambda name: name
    copies: Mapping[str, str] = field(default_factory=dict)


def same(ours: str, theirs: str) -> Entry:
    """A tensor that is laid out alike."""
    return Entry((ours,), theirs, lambda array: (array,), _only)


def linear(ours: str, theirs: str) -> Entry:
    """A PyTorch linear map (out, in), for our kernel (in, out)."""
    return Entry((ours,), theirs, lambda array: (array.T,), _transposed)


def to_heads(ours: str, theirs: str, heads: int) -> Entry:
    """A PyTorch linear map (heads·depth, width), for our kernel (width, heads, depth)."""

    def to_ours(array: np.ndarray) -> Arrays:
        return (array.T.reshape(array.shape[1], heads, -1),)

    return Entry((ours,), theirs, to_ours, _heads_joined)


def heads_bias(ours: str, theirs: str, heads: int) -> Entry:
    """A bias (heads·depth,), for ours (heads, depth)."""
    return Entry((ours,), theirs, lambda array: (array.reshape(heads, -1),), _flat)


def from_heads(ours: str, theirs: str, heads: int) -> Entry:
    """A PyTorch linear map (width, heads·depth), for our kernel (heads, depth, width)."""

    def to_ours(array: np.ndarray) -> Arrays:
        return (array.T.reshape(heads, -1, array.shape[0]),)

    return Entry((ours,), theirs, to_ours, _joined_heads)


# Not made anew for each entry: those of the same shapes are compiled once.
def _only(arrays: Arrays) -> Any:
    return arrays[0]


def _transposed(arrays: Arrays) -> Any:
    return arrays[0].T


def _flat(arrays: Arrays) -> Any:
    return arrays[0].reshape(-1)


def _heads_joined(arrays: Arrays) -> Any:
    return arrays[0].reshape(arrays[0].shape[0], -1).T


def _joined_heads(arrays: Arrays) -> Any:
    return arrays[0].reshape(-1, arrays[0].shape[-1]).T


@dataclass(frozen=True)
class _Piece:
    """One of their tensors: an entry with its numbers filled in."""

    name: str
    entry: Entry
    index: tuple[int, ...]
    shape: tuple[int, ...]


def load(tensors: Mapping[str, Tensor], table: Table, abstract: Params) -> Params:
    """The tensors as a tree like `abstract`, each leaf in its dtype and where its sharding says.

    abstract: `jax.ShapeDtypeStruct`s; one without a sharding goes to the first device.

    Raises:
        UserError: for a tensor that is missing, has another shape, or has no place in the tree.
    """
    leaves = traverse_util.flatten_dict(abstract, sep="/")
    pieces = {piece.name: piece for piece in _pieces(table, leaves)}
    found: dict[str, Tensor] = {}
    copies: list[Tensor] = []
    for stored, tensor in tensors.items():
        name = table.renamed(stored)
        if name in table.copies and name not in pieces:
            copies.append(tensor)
        elif name is not None:
            found[name] = tensor
    _check(found, pieces)
    for tensor in copies:
        original = found[table.copies[str(table.renamed(tensor.name))]]
        if not _equal(tensor, original):
            raise UserError(
                f"{tensor.name} is another tensor than {original.name}, though by config.json they "
                "are one: set tie_word_embeddings to false there."
            )
    filled = _zeros({p: leaf for p, leaf in leaves.items() if _stacked(p, pieces)})
    for name, tensor in found.items():
        piece = pieces[name]
        arrays = piece.entry.to_ours(tensor.read())
        for path, array in zip(piece.entry.ours, arrays, strict=True):
            leaf = leaves[path]
            place = _part_sharding(_sharding(leaf), len(piece.index))
            part = jax.make_array_from_callback(array.shape, place, partial(_at, array))
            if piece.index:
                filled[path] = _written(filled[path], part, piece.index, _sharding(leaf))
            else:
                filled[path] = _cast(part, leaf.dtype)
            # What waits to be copied is still held by the host.
            jax.block_until_ready(filled[path])
    return traverse_util.unflatten_dict(filled, sep="/")


def tensors_of(params: Params, table: Table, dtype: Any = None) -> list[Tensor]:
    """The tree as the other library's tensors; each is gathered from the devices when it is read.

    dtype: of the tensors; None leaves each as it is.

    Raises:
        UserError: for leaves that the table has no tensor for, or that the tree lacks.
    """
    leaves = traverse_util.flatten_dict(params, sep="/")
    tensors = []
    for piece in _pieces(table, leaves):
        arrays = tuple(leaves[path] for path in piece.entry.ours)
        kind = np.dtype(arrays[0].dtype if dtype is None else dtype)
        read = partial(_gathered, piece, arrays, kind)
        tensors.append(Tensor(piece.name, piece.shape, kind, read))
    return tensors


def _pieces(table: Table, leaves: Mapping[str, Any]) -> Iterator[_Piece]:
    """All tensors that the tree makes, layer by layer within each entry."""
    covered = [path for entry in table.entries for path in entry.ours]
    for path in sorted(set(covered) - leaves.keys()):
        raise UserError(f"The parameters have no {path}: they are of another network.")
    for path in sorted(leaves.keys() - set(covered)):
        if is_adapter(tuple(path.split("/"))):
            raise UserError(f"{path} is an adapter: merge adapters into their kernels first.")
        raise UserError(
            f"{path} has no place in the other library's files: it can't be kept there."
        )
    for entry in table.entries:
        axes = [axis for axis in ("layer", "expert") if f"{{{axis}}}" in entry.theirs]
        parts = tuple(
            jax.ShapeDtypeStruct(leaves[path].shape[len(axes) :], leaves[path].dtype)
            for path in entry.ours
        )
        shape = jax.eval_shape(entry.to_theirs, parts).shape
        for index in np.ndindex(leaves[entry.ours[0]].shape[: len(axes)]):
            name = entry.theirs.format(**dict(zip(axes, index, strict=True)))
            yield _Piece(name, entry, index, shape)


def _check(found: Mapping[str, Tensor], pieces: Mapping[str, _Piece]) -> None:
    missing = [name for name in pieces if name not in found]
    if missing:
        raise UserError(
            f"The checkpoint has no tensor {_named(missing)}: its config.json asks for it."
        )
    unknown = [found[name].name for name in found if name not in pieces]
    if unknown:
        raise UserError(
            f"The network has no place for the tensor {_named(unknown)}: config.json describes "
            "another one."
        )
    for name, piece in pieces.items():
        if found[name].shape != piece.shape:
            raise UserError(
                f"The tensor {found[name].name} is {found[name].shape}, and by config.json it "
                f"should be {piece.shape}."
            )


def _named(names: list[str]) -> str:
    return names[0] + (f" (and {len(names) - 1} more)" if len(names) > 1 else "")


def _equal(one: Tensor, other: Tensor, rows: int = 1024) -> bool:
    if (one.shape, one.dtype) != (other.shape, other.dtype):
        return False
    parts = (slice(start, start + rows) for start in range(0, one.shape[0], rows))
    return all(np.array_equal(one.read(part), other.read(part)) for part in parts)


def _stacked(path: str, pieces: Mapping[str, _Piece]) -> bool:
    return any(path in piece.entry.ours and piece.index for piece in pieces.values())


def _sharding(leaf: Any) -> Sharding:
    return leaf.sharding or jax.sharding.SingleDeviceSharding(jax.devices()[0])


def _part_sharding(sharding: Sharding, indexed: int) -> Sharding:
    """Where a leaf's part lies whose first axes are taken at one index."""
    if not isinstance(sharding, NamedSharding):
        return sharding
    return NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[indexed:]))


def _at(array: np.ndarray, index: Any) -> np.ndarray:
    return array[index]


def _zeros(leaves: Mapping[str, Any]) -> dict[str, jax.Array]:
    def make() -> dict[str, jax.Array]:
        return {path: jnp.zeros(leaf.shape, leaf.dtype) for path, leaf in leaves.items()}

    return jax.jit(make, out_shardings={p: _sharding(leaf) for p, leaf in leaves.items()})()


@partial(jax.jit, static_argnames="dtype")
def _cast(part: jax.Array, dtype: Any) -> jax.Array:
    return part.astype(dtype)


@partial(jax.jit, donate_argnums=0, static_argnames="sharding")
def _written(leaf: jax.Array, part: jax.Array, index: Arrays, sharding: Sharding) -> jax.Array:
    """The leaf with `part` in its place, in the leaf's own memory."""
    start = (*index, *(0,) * part.ndim)
    update = part.astype(leaf.dtype).reshape((1,) * len(index) + part.shape)
    whole = jax.lax.dynamic_update_slice(leaf, update, start)
    return jax.lax.with_sharding_constraint(whole, sharding)


@partial(jax.jit, static_argnames=("to_theirs", "dtype", "sharding"))
def _taken(leaves: Arrays, index: Arrays, to_theirs: Any, dtype: Any, sharding: Any) -> jax.Array:
    for number in index:
        leaves = tuple(
            jax.lax.dynamic_index_in_dim(leaf, number, keepdims=False) for leaf in leaves
        )
    theirs = to_theirs(leaves).astype(dtype)
    return theirs if sharding is None else jax.lax.with_sharding_constraint(theirs, sharding)


def _gathered(piece: _Piece, leaves: Arrays, dtype: Any, rows: slice | None = None) -> np.ndarray:
    place = getattr(leaves[0], "sharding", None)
    whole = NamedSharding(place.mesh, PartitionSpec()) if isinstance(place, NamedSharding) else None
    array = np.asarray(_taken(leaves, piece.index, piece.entry.to_theirs, dtype, whole))
    return array if rows is None else array[rows]

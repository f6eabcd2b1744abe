"""Flax NNX modules under the one loop: their state as plain dicts, their call as a pure function.

Nothing else in jaxgen imports `flax.nnx`, whose releases must match jax's exactly.

    network = from_nnx(Model(rngs=nnx.Rngs(0)))

    def loss(params, context):
        logits, variables = network.apply(
            params, context.variables, context.batch["x"], key=context.key, train=True
        )
        return Output(..., variables=variables)

    Experiment(init=network.init, updates=[Update("model", loss, optimizer)], ...)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx, traverse_util

from jaxgen.errors import UserError
from jaxgen.experiment import Batch, Key, Params, Path, Variables


@dataclass(frozen=True)
class NNXNetwork:
    """An NNX module, split in what it is and what it holds.

    params: its `nnx.Param`s as nested dicts, lists by their places: "layers", "0", "kernel".
    variables: all else that changes, such as batch statistics. Random streams are left out: their
        keys come from outside at each call.
    graph, parts: what `flax.nnx` puts the module together from.
    """

    params: Params
    variables: Variables
    graph: Any
    parts: tuple[_Part, ...]

    def init(self, key: Key, batch: Batch) -> tuple[Params, Variables]:
        """What the module held, for `Experiment.init`; the key changes nothing."""
        return self.params, self.variables

    def apply(
        self,
        params: Params,
        variables: Variables,
        *arguments: Any,
        key: Key | None = None,
        train: bool = False,
        method: Callable[..., Any] | None = None,
    ) -> tuple[Any, Variables]:
        """Calls the module on these parameters and variables; pure, so fit for `jit` and `grad`.

        Returns what it returns, and the variables as it left them.

        Args:
            key: every random stream of the module begins anew from it. Without one, whatever still
                draws random numbers draws the same each time.
            train: calls it as after `module.train()`, or else as after `module.eval()`.
            method: `(module, *arguments) -> anything`, in place of a call.
        """
        kept, drawn, rest = self.parts
        streams = drawn.filled(_fresh(drawn.shapes, jax.random.key(0) if key is None else key))
        module = nnx.merge(self.graph, kept.filled(params), streams, rest.filled(variables))
        if train:
            module.train()
        else:
            module.eval()
        out = module(*arguments) if method is None else method(module, *arguments)
        _, *states = nnx.split(module, nnx.Param, nnx.RngState, ...)
        found = _flat(states[-1])
        # What a call adds (sown intermediates) is no part of the model's state.
        return out, _nested({path: found[path] for path in rest.shapes})


def from_nnx(module: nnx.Module) -> NNXNetwork:
    """An NNX module that the loop can train, as `NNXNetwork`.

    Its leaves are replicated over the devices: NNX's own sharding annotations aren't read. A module
    made by `nnx.eval_shape` holds shapes only; give such a one's parameters by `initialized`.

    Raises:
        UserError: for a module without parameters.
    """
    graph, *states = nnx.split(module, nnx.Param, nnx.RngState, ...)
    params, _, rest = states
    parts = tuple(map(_Part.of, states))
    if not parts[0].shapes:
        raise UserError("There is nothing to train in an NNX module without an nnx.Param.")
    return NNXNetwork(_nested(_flat(params)), _nested(_flat(rest)), graph, parts)


def initialized(
    make: Callable[[nnx.Rngs], nnx.Module],
) -> Callable[[Key, Batch], tuple[Params, Variables]]:
    """An `Experiment.init` that makes the module anew, from the run's own key, where it will live.

    make: `lambda rngs: Model(rngs=rngs)`; called while traced.
    """

    def init(key: Key, batch: Batch) -> tuple[Params, Variables]:
        made = from_nnx(make(nnx.Rngs(key)))
        return made.params, made.variables

    return init


@dataclass(frozen=True)
class _Part:
    """One kind of a module's state, emptied: its structure, and its leaves' paths and shapes."""

    structure: Any
    shapes: dict[Path, jax.ShapeDtypeStruct]

    @classmethod
    def of(cls, state: Any) -> _Part:
        shapes = {
            path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
            for path, leaf in _flat(state).items()
        }
        return cls(jax.tree.structure(state), shapes)

    def filled(self, tree: Any) -> Any:
        """The state with the leaves of nested dicts."""
        flat = traverse_util.flatten_dict(tree)
        return jax.tree.unflatten(self.structure, [flat[path] for path in self.shapes])


def _flat(state: Any) -> dict[Path, Any]:
    """A state's leaves by their paths, in the order in which jax has them."""
    kinds = (jax.tree_util.DictKey, jax.tree_util.SequenceKey)
    flat = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        # A variable's own key comes last, and is of another kind.
        keys = (key for key in path if isinstance(key, kinds))
        flat[tuple(jax.tree_util.keystr((key,), simple=True) for key in keys)] = leaf
    return flat


def _nested(flat: dict[Path, Any]) -> Any:
    return traverse_util.unflatten_dict(flat)


def _fresh(shapes: dict[Path, jax.ShapeDtypeStruct], key: Key) -> Any:
    """Random streams at their beginning: counts of zero, and keys of their own."""
    leaves: dict[Path, Any] = {}
    for index, (path, shape) in enumerate(shapes.items()):
        if jnp.issubdtype(shape.dtype, jax.dtypes.prng_key):
            leaves[path] = jax.random.split(jax.random.fold_in(key, index), shape.shape)
        else:
            leaves[path] = jnp.zeros(shape.shape, shape.dtype)
    return _nested(leaves)

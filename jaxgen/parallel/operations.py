"""How many floating-point operations a function does, read off its jaxpr.

Only matrix products and convolutions count: all else is little beside them. XLA's own
`cost_analysis` won't do, for it counts the body of a loop once. What the devices could do is in
`peak_operations.py`.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import jax
import numpy as np
from jax.extend.core import Literal


@dataclasses.dataclass(frozen=True)
class Operations:
    """Floating-point operations on all devices together; one multiplication and addition are two.

    products: of matrix products, ragged and scaled ones included.
    convolutions: of convolutions, by the taps that meet a number of the input: none for padding and
        for the holes of dilation.
    kernels: of Pallas kernels and of cuDNN's attention.
    recomputed: how many of all those `jax.checkpoint` does a second time for the gradient, and
        cuDNN's attention in its backward pass. What a Pallas kernel recomputes isn't known.
    unknown_loops: loops whose number of trips nothing tells, counted as if they took one.
    hidden: primitives met that call foreign code, whose operations can't be seen and count nothing.
    """

    products: int = 0
    convolutions: int = 0
    kernels: int = 0
    recomputed: int = 0
    unknown_loops: int = 0
    hidden: frozenset[str] = frozenset()

    @property
    def total(self) -> int:
        """What the devices do."""
        return self.products + self.convolutions + self.kernels

    @property
    def model(self) -> int:
        """What the network asks for, all but the recomputed: what MFU counts.

        MFU (model FLOPs utilization) is in appendix B of PaLM, Chowdhery et al. 2022.
        """
        return self.total - self.recomputed

    def __add__(self, other: Operations) -> Operations:
        return Operations(
            self.products + other.products,
            self.convolutions + other.convolutions,
            self.kernels + other.kernels,
            self.recomputed + other.recomputed,
            self.unknown_loops + other.unknown_loops,
            self.hidden | other.hidden,
        )

    def times(self, trips: float) -> Operations:
        """The same, done `trips` times: perhaps not a whole number, if that is a mean."""
        return dataclasses.replace(
            self,
            products=round(self.products * trips),
            convolutions=round(self.convolutions * trips),
            kernels=round(self.kernels * trips),
            recomputed=round(self.recomputed * trips),
        )


def operations_of(function: Callable[..., Any], *arguments: Any) -> Operations:
    """The operations of `function(*arguments)`, which is traced and never run.

    arguments: trees of arrays or of `jax.ShapeDtypeStruct`, which take no memory.
    """
    return operations(jax.make_jaxpr(function)(*arguments))


def operations(jaxpr: Any) -> Operations:
    """The operations of a jaxpr, closed or not, and of every jaxpr inside it.

    Of a `cond` the most expensive branch counts; the body of a `shard_map` counts once for each of
    its devices; a Pallas kernel counts what its cost estimate says, and without one every block of
    its grid, also those that a mask lets it skip. A `while` loop counts by its constant bounds, or
    by what `expected_trips` says of it.
    """
    equations = getattr(jaxpr, "jaxpr", jaxpr).eqns
    return sum((_of_equation(equation) for equation in equations), Operations())


def expected_trips(trips: float) -> AbstractContextManager[None]:
    """Says how often a loop inside this context is taken, where only the data decide.

        with expected_trips(rows / rows_per_block):
            return jax.lax.while_loop(...)

    It goes into the loop's name scope, so that gradients, `vmap` and `scan` keep it. It holds for
    the loops of the context, not for loops inside their bodies.
    """
    return jax.named_scope(f"expected_trips={float(trips)}")


# What `jax.checkpoint` calls the scope of the equations that it repeats.
_RECOMPUTED = "rematted_computation"
_FOREIGN = {"ffi_call", "tpu_custom_call", "pure_callback", "io_callback"}


def _of_equation(equation: Any) -> Operations:
    name, params = equation.primitive.name, equation.params
    inside = [operations(jaxpr) for jaxpr in _jaxprs(list(params.values()))]
    found = sum(inside, Operations())
    match name:
        case "dot_general" | "scaled_dot":
            found = Operations(products=_product(equation))
        case "ragged_dot_general":
            found = Operations(products=_ragged_product(equation))
        case "conv_general_dilated":
            found = Operations(convolutions=_convolution(equation))
        case "dot_product_attention_fwd_wrapper" | "dot_product_attention_bwd_wrapper":
            found = _cudnn_attention(equation, backward="bwd" in name)
        case "pallas_call":
            found = _kernel(equation)
        case "call_hi_primitive":
            # Keeps no jaxpr but the function that it stands for.
            arguments = (
                jax.ShapeDtypeStruct(variable.aval.shape, variable.aval.dtype)
                for variable in equation.invars
            )
            stands_for = params["_prim"]
            found = operations_of(
                stands_for.expand, *jax.tree.unflatten(stands_for.in_tree, arguments)
            )
        case "cond":
            found = max(inside, key=lambda branch: branch.total)
        case "scan":
            found = found.times(params["length"])
        case "while":
            trips = _trips(equation)
            if trips is not None:
                found = found.times(trips)
            elif found.total:
                found += Operations(unknown_loops=1)
        case "shard_map":
            axes = params["newly_manual_axes"]
            found = found.times(math.prod(params["mesh"].shape[axis] for axis in axes))
        case _ if name in _FOREIGN:
            found += Operations(hidden=frozenset({name}))
    if _RECOMPUTED in str(equation.source_info.name_stack):
        found = dataclasses.replace(found, recomputed=found.total)
    return found


def _jaxprs(params: Any) -> Iterator[Any]:
    """Every jaxpr among an equation's parameters, whatever their names."""
    if hasattr(params, "eqns"):
        yield params
    elif isinstance(params, list | tuple):
        for each in params:
            yield from _jaxprs(each)
    elif isinstance(params, dict):
        yield from _jaxprs(list(params.values()))


def _product(equation: Any) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    return 2 * equation.outvars[0].aval.size * math.prod(left[axis] for axis in contracted)


def _ragged_product(equation: Any) -> int:
    # Whichever axis is ragged, each number on the left meets as many on the right as one group has
    # in the axes that the two don't share.
    numbers = equation.params["ragged_dot_dimension_numbers"]
    (_, contracted), (_, batch) = numbers.dot_dimension_numbers
    shared = {*contracted, *batch, *numbers.rhs_group_dimensions}
    left, right = (variable.aval for variable in equation.invars[:2])
    free = [length for axis, length in enumerate(right.shape) if axis not in shared]
    return 2 * left.size * math.prod(free)


def _convolution(equation: Any) -> int:
    params = equation.params
    numbers = params["dimension_numbers"]
    left, right, out = (
        variable.aval.shape for variable in (*equation.invars[:2], equation.outvars[0])
    )
    # Groups show in the kernel's input features, of which it has those of one group.
    products = out[numbers.out_spec[0]] * out[numbers.out_spec[1]] * right[numbers.rhs_spec[1]]
    for axis, (stride, (before, _), holes, taps_apart) in enumerate(
        zip(
            params["window_strides"],
            params["padding"],
            params["lhs_dilation"],
            params["rhs_dilation"],
            strict=True,
        ),
        start=2,
    ):
        # Where each tap of each output lands; the loop runs over the fewer of the two.
        outputs = np.arange(out[numbers.out_spec[axis]]) * stride
        taps = np.arange(right[numbers.rhs_spec[axis]]) * taps_apart
        fewer, more = sorted((outputs, taps), key=len)
        end = (left[numbers.lhs_spec[axis]] - 1) * holes
        products *= sum(
            np.count_nonzero((place >= 0) & (place <= end) & (place % holes == 0))
            for place in (more + one - before for one in fewer)
        )
    return 2 * int(products)


def _cudnn_attention(equation: Any, backward: bool) -> Operations:
    query, key, value = (variable.aval.shape for variable in equation.invars[:3])
    params = equation.params
    time_axis = 2 if params["layout"] else 1  # AttentionLayout.BNTH, else BTNH
    time, positions = query[time_axis], key[time_axis]
    row, column = np.arange(time)[:, None], np.arange(positions)
    pairs = time * positions
    if "CAUSAL" in str(params["mask_type"]).upper():
        seen = column <= row
        if params["sliding_window_length"]:
            seen &= column > row - params["sliding_window_length"]
        pairs = int(np.count_nonzero(seen))
    pairs *= math.prod(query[:-1]) // time
    of_keys, of_values = 2 * pairs * query[-1], 2 * pairs * value[-1]
    if not backward:
        return Operations(kernels=of_keys + of_values)
    # The scores once more, then the slopes of queries, keys, values and weights.
    return Operations(kernels=3 * of_keys + 2 * of_values, recomputed=of_keys)


def _kernel(equation: Any) -> Operations:
    params = equation.params
    if params["cost_estimate"] is not None:
        return Operations(kernels=int(params["cost_estimate"].flops))
    # A grid whose size only the data decide has something else than a number there.
    sizes = params["grid_mapping"].grid
    blocks = math.prod(size for size in sizes if isinstance(size, int))
    one = operations(params["jaxpr"])
    unknown = one.unknown_loops + sum(not isinstance(size, int) for size in sizes)
    return Operations(kernels=one.total, unknown_loops=unknown, hidden=one.hidden).times(blocks)


def _trips(equation: Any) -> float | None:
    """How often a `while` is taken, if it says so or counts from one constant to another."""
    said = re.findall(r"expected_trips=([\d.e+-]+)", str(equation.source_info.name_stack))
    if said:
        return float(said[-1])
    return _counted_trips(equation)


def _counted_trips(equation: Any) -> int | None:
    params = equation.params
    test, body = (
        getattr(jaxpr, "jaxpr", jaxpr) for jaxpr in (params["cond_jaxpr"], params["body_jaxpr"])
    )
    if [each.primitive.name for each in test.eqns] != ["lt"]:
        return None
    start = equation.invars[params["cond_nconsts"] + params["body_nconsts"] :]
    tested, carried = test.invars[params["cond_nconsts"] :], body.invars[params["body_nconsts"] :]
    counter, limit = test.eqns[0].invars
    if limit in tested:
        # fori_loop carries its limit along.
        place = tested.index(limit)
        limit = start[place] if body.outvars[place] is carried[place] else None
    if counter not in tested or not isinstance(limit, Literal):
        return None
    place = tested.index(counter)
    for step in body.eqns:
        if step.outvars[0] is body.outvars[place] and step.primitive.name == "add":
            before, pace = step.invars
            constant = isinstance(start[place], Literal) and isinstance(pace, Literal)
            if before is carried[place] and constant and pace.val > 0:
                return max(0, math.ceil((limit.val - start[place].val) / pace.val))
    return None

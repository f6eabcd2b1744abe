"""Operations counted on jaxprs, against closed forms and against what convolving ones adds up to.

Nothing here but the convolutions is ever compiled: counting only traces.
"""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import hijax
from jax.sharding import PartitionSpec

from jaxgen.parallel.mesh import MeshShape, make_mesh
from jaxgen.parallel.operations import Operations, expected_trips, operations, operations_of


def array(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def of_gradient(function, *arguments):
    """Of the value and of the gradients by all arguments."""

    def summed(*arguments):
        # What the slope of a plain sum is multiplied with would be constant, and might be dropped.
        return jnp.square(function(*arguments)).sum()

    return operations_of(jax.grad(summed, tuple(range(len(arguments)))), *arguments)


SQUARE, ROWS = array(8, 8), array(4, 8)
ONE = 2 * 4 * 8 * 8  # of ROWS @ SQUARE


def test_matrix_products():
    product = partial(jnp.einsum, "bij,bkj->bki")
    assert operations_of(product, array(2, 3, 4), array(2, 5, 4)).products == 2 * 2 * 3 * 4 * 5
    both = operations_of(lambda a, b: jnp.tanh(a @ b) + a @ b, ROWS, SQUARE)
    assert both == Operations(products=2 * ONE)
    assert both.total == both.model == 2 * ONE
    assert operations(jax.make_jaxpr(jnp.matmul)(ROWS, SQUARE).jaxpr).total == ONE


@pytest.mark.parametrize(
    "options",
    [
        {"window_strides": (1, 1), "padding": "VALID"},
        {"window_strides": (1, 1), "padding": "SAME"},
        {"window_strides": (2, 3), "padding": ((1, 2), (0, 3))},
        {"window_strides": (1, 1), "padding": "SAME", "feature_group_count": 2},
        {"window_strides": (1, 1), "padding": "SAME", "batch_group_count": 2},
        {"window_strides": (1, 2), "padding": ((2, 2), (3, -1)), "rhs_dilation": (2, 1)},
        {"window_strides": (1, 1), "padding": ((1, 2), (2, 0)), "lhs_dilation": (2, 3)},
    ],
)
@pytest.mark.parametrize("layout", [("NCHW", "OIHW", "NCHW"), ("NHWC", "HWIO", "NHWC")])
def test_convolutions_count_what_convolving_ones_adds_up_to(options, layout):
    features = 4 // options.get("feature_group_count", 1)
    left, right = jnp.ones((2, 4, 7, 9)), jnp.ones((6, features, 3, 4))
    if layout[0] == "NHWC":
        left, right = left.transpose(0, 2, 3, 1), right.transpose(2, 3, 1, 0)
    convolution = partial(jax.lax.conv_general_dilated, dimension_numbers=layout, **options)
    forward = operations_of(convolution, left, right)
    assert forward == Operations(convolutions=2 * int(convolution(left, right).sum()))
    # Each of the two gradients multiplies the same pairs.
    assert of_gradient(convolution, left, right).convolutions == 3 * forward.convolutions


def test_convolutions_over_time():
    # Causal: of three taps, the first two outputs have one and two.
    numbers = ("NHC", "HIO", "NHC")
    causal = partial(
        jax.lax.conv_general_dilated,
        window_strides=(1,),
        padding=[(2, 0)],
        dimension_numbers=numbers,
    )
    assert operations_of(causal, array(1, 10, 5), array(3, 5, 7)).total == 2 * (3 * 10 - 3) * 5 * 7


def test_ragged_products_take_each_row_once():
    rows, kernels, sizes = array(12, 8), array(3, 8, 5), jnp.array([4, 0, 8])
    product = partial(jax.lax.ragged_dot, group_sizes=sizes)
    assert operations_of(product, rows, kernels).total == 2 * 12 * 8 * 5
    assert of_gradient(product, rows, kernels).total == 3 * 2 * 12 * 8 * 5


def test_gradient_of_a_perceptron():
    widths = (16, 32, 8)

    def perceptron(kernels, x):
        for kernel in kernels:
            x = jnp.tanh(x @ kernel)
        return jnp.square(x).sum()

    kernels = [array(*pair) for pair in itertools.pairwise(widths)]
    layers = [2 * 4 * a * b for a, b in itertools.pairwise(widths)]
    found = operations_of(jax.grad(perceptron), kernels, array(4, widths[0]))
    # The input needs no gradient.
    assert found.total == 3 * sum(layers) - layers[0]


def test_loops_and_branches():
    def scanned(x, kernels):
        return jax.lax.scan(lambda x, kernel: (jnp.tanh(x @ kernel), None), x, kernels)[0]

    assert operations_of(scanned, ROWS, array(5, 8, 8)).total == 5 * ONE
    assert of_gradient(scanned, ROWS, array(5, 8, 8)).total == 3 * 5 * ONE
    batched = jax.jit(jax.vmap(scanned, (0, None)))
    assert operations_of(batched, array(7, 4, 8), array(5, 8, 8)).total == 7 * 5 * ONE

    def branched(take, x, kernel):
        branches = [lambda: x, lambda: x @ kernel @ kernel, lambda: x @ kernel]
        return jax.lax.switch(take, branches)

    assert operations_of(branched, array(dtype=jnp.int32), ROWS, SQUARE).total == 2 * ONE


def test_while_loops():
    def counted(x, kernel):
        return jax.lax.fori_loop(2, jnp.int32(7), lambda _, x: x @ kernel, x)

    assert operations_of(counted, ROWS, SQUARE) == Operations(products=5 * ONE)

    def by_threes(x, kernel):
        return jax.lax.while_loop(
            lambda state: state[0] < 11, lambda state: (state[0] + 3, state[1] @ kernel), (1, x)
        )

    assert operations_of(by_threes, ROWS, SQUARE) == Operations(products=4 * ONE)

    def open_ended(trips, x, kernel):
        return jax.lax.fori_loop(0, trips, lambda _, x: x @ kernel, x)

    arguments = (array(dtype=jnp.int32), ROWS, SQUARE)
    assert operations_of(open_ended, *arguments) == Operations(products=ONE, unknown_loops=1)

    def doubling(x, kernel):
        return jax.lax.while_loop(
            lambda state: state[0] < 10, lambda state: (state[0] * 2, state[1] @ kernel), (1, x)
        )

    assert operations_of(doubling, ROWS, SQUARE).unknown_loops == 1
    # A loop without products hides nothing.
    assert operations_of(lambda n: jax.lax.fori_loop(0, n, jnp.add, 0), 3) == Operations()


def test_loops_say_how_often_they_are_taken():
    def loop(x, kernel, trips):
        with expected_trips(2.5):
            return jax.lax.fori_loop(0, trips, lambda _, x: x @ kernel, x)

    @jax.custom_vjp
    def differentiable(x, kernel, trips):
        return loop(x, kernel, trips)

    def forward(x, kernel, trips):
        out = loop(x, kernel, trips)
        return out, (out, kernel, trips)

    def backward(kept, slope):
        out, kernel, trips = kept
        return loop(slope, kernel.T, trips), out.T @ slope, None

    differentiable.defvjp(forward, backward)
    trips = array(dtype=jnp.int32)
    assert operations_of(loop, ROWS, SQUARE, trips) == Operations(products=5 * ONE // 2)
    batched = jax.jit(jax.vmap(loop, (0, None, None)))
    assert operations_of(batched, array(3, 4, 8), SQUARE, trips).total == 3 * 5 * ONE // 2

    def repeated(x, kernel, trips):
        def one(x, _):
            # The second keeps what the first makes, so the first is done again.
            return jax.checkpoint(
                lambda x: differentiable(differentiable(x, kernel, trips), kernel, trips)
            )(x), None

        return jnp.square(jax.lax.scan(one, x, None, length=4)[0]).sum()

    found = operations_of(jax.grad(repeated, (0, 1)), ROWS, SQUARE, trips)
    assert found.unknown_loops == 0
    assert found.model == 4 * (2 * 2 * 5 * ONE // 2 + 2 * ONE)
    # Both are done again: the gradient by the kernel asks for what each made.
    assert found.recomputed == 4 * 2 * 5 * ONE // 2

    def nested(x, kernel, trips):
        def body(_, x):
            return jax.lax.fori_loop(0, trips, lambda _, x: x @ kernel, x)

        with expected_trips(10):
            return jax.lax.fori_loop(0, trips, body, x)

    # What is said holds for the loops outside only.
    assert operations_of(nested, ROWS, SQUARE, trips) == Operations(
        products=10 * ONE, unknown_loops=1
    )


def test_shard_map_counts_every_device():
    def product(x, kernel):
        return x @ kernel

    rows = array(16, 8)
    whole = operations_of(product, rows, SQUARE)
    with jax.set_mesh(make_mesh(MeshShape(data=4, tensor=2))):
        split = jax.shard_map(
            product,
            in_specs=(PartitionSpec("data"), PartitionSpec(None, "tensor")),
            out_specs=PartitionSpec("data", "tensor"),
        )
        assert operations_of(jax.jit(split), rows, SQUARE) == whole
        assert of_gradient(split, rows, SQUARE).total == 3 * whole.total
        # Two devices each do the same.
        twice = jax.shard_map(
            product,
            in_specs=(PartitionSpec("data"), PartitionSpec()),
            out_specs=PartitionSpec("data"),
        )
        assert operations_of(twice, rows, SQUARE).total == 2 * whole.total
        # Over an axis that stays automatic, shapes are of all devices.
        partly = jax.shard_map(
            product,
            in_specs=(PartitionSpec("data"), PartitionSpec()),
            out_specs=PartitionSpec("data"),
            axis_names={"data"},
        )
        assert operations_of(jax.jit(partly), rows, SQUARE) == whole


def test_pmap_counts_every_device():
    each = jax.pmap(jnp.matmul, in_axes=(0, None))
    assert operations_of(each, array(8, 4, 8), SQUARE).total == 8 * ONE


def test_primitives_that_keep_a_function_instead_of_a_jaxpr():
    # jax 0.10 has it by its older name.
    primitive = hijax.HiPrim if hasattr(hijax, "HiPrim") else hijax.VJPHiPrimitive

    class Product(primitive):
        def __init__(self, left, right):
            self.in_avals = (left, right)
            self.out_aval = hijax.ShapedArray((left.shape[0], right.shape[1]), left.dtype)
            self.params = {}
            super().__init__()

        def expand(self, left, right):
            return left @ right

    def product(left, right):
        return Product(jax.typeof(left), jax.typeof(right))(left, right)

    assert operations_of(product, ROWS, SQUARE) == Operations(products=ONE)


def test_foreign_code_is_named():
    def call(x):
        return jax.pure_callback(np.sin, x, x)

    assert operations_of(call, ROWS) == Operations(hidden=frozenset({"pure_callback"}))

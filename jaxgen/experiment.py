"""What a run is made of: updates, data, samplers, evaluations.

A model is pure functions over a parameter tree. A train step is a sequence of `Update`s; each
moves one part of that tree down one loss. The training loop knows the types on this page and
nothing else, so a new family of models adds files and changes none of the loop.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import flax.struct
import jax
import numpy as np
import optax

from jaxgen.artifacts import Artifact
from jaxgen.errors import UserError

Params = Any  # nested dicts of arrays, keys are strings
Variables = Any  # whatever no gradient moves: batch statistics, code-books, ...
Key = jax.Array  # a typed key: jax.random.key(0)
Batch = Mapping[str, jax.Array | np.ndarray]
Data = Mapping[Any, Any]  # names are strings, but whoever checks that would read `Deferred` data
Path = tuple[str, ...]  # the keys from the root of params to a leaf


@flax.struct.dataclass
class Model:
    """What samplers and evaluations get to see of a model: a pytree, so it goes through `jit`."""

    params: Any
    variables: Any


@flax.struct.dataclass
class Context:
    """What a loss may see besides the parameters.

    batch: one micro-batch, leaves (rows, ...).
    key: this update's own random key, folded from seed, step, update, repeat and micro-batch.
    step: the training step, an int32 scalar, counted from 0.
    variables: the current `variables`.
    ema: the whole parameter tree, the moving average standing in for every leaf that has one.
    """

    batch: Any
    key: Any
    step: Any
    variables: Any
    ema: Any


@flax.struct.dataclass
class Output:
    """What a loss returns.

    value: the mean loss over the micro-batch, a scalar.
    weight: how much that mean weighs when micro-batches are joined (tokens, unmasked items).
    metrics: scalars to log, joined with the same weight.
    variables: the next `variables`, whole; None leaves them as they are.
    """

    value: Any
    weight: Any = 1.0
    metrics: Any = flax.struct.field(default_factory=dict)
    variables: Any = None


Loss = Callable[[Params, Context], Output]

# What was logged or measured at a step -> one line that warns of it; "" where all is well, and None
# where what it looks for is not among them.
Notice = Callable[[Mapping[str, float]], str | None]


@dataclass(frozen=True)
class Update:
    """One part of the parameters, moved down one loss by one optimizer.

    name: names the update in metrics and in the state.
    loss: `(params, context) -> Output`; differentiated by the moved part alone.
    optimizer: any Optax transformation; its schedule counts this update's own updates.
    moves: "" is everything; "critic" or "decoder/head" the subtree at that path; a predicate
        `(path) -> bool` picks single leaves (adapters, freezing).
    repeats: so many updates a step, each on a fresh micro-batch.
    every: runs in steps every, 2·every, ... only (lazy regularization).
    accumulate: splits each micro-batch in so many, summing weighted gradients by `scan`.
    reduce_once: while accumulating, each group of devices along the mesh's `slices` and `data`
        goes over its own rows alone, and gradients are added up between groups once at the end, not
        for each part. Losses and gradients are the same, by weight, where rows don't look at each
        other; noise, and what couples rows (batch statistics), are of a group's rows. `variables`
        join as under pmap (`jaxgen/training/pmap_step.py`).
    ema: decay of a moving average of the moved part, warmed up as min(decay, (1+n)/(10+n)) after
        n updates; or a schedule n -> decay, used as it is; None keeps no average.
    """

    name: str
    loss: Loss
    optimizer: optax.GradientTransformation
    moves: str | Callable[[Path], bool] = ""
    repeats: int = 1
    every: int = 1
    accumulate: int = 1
    reduce_once: bool = False
    ema: float | Callable[[Any], Any] | None = None


@runtime_checkable
class Items(Protocol):
    """A finite data set with random access: item i is the same whenever and wherever it is read."""

    def __len__(self) -> int: ...

    def __getitem__(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """The items at `indices` (n,), stacked: every leaf is (n, ...)."""
        ...


def taken(items: Items, first: int, count: int) -> dict[str, np.ndarray]:
    """So many items of the data from number `first` on; `UserError` if there are fewer."""
    if not 0 <= first <= first + count <= len(items):
        raise UserError(
            f"The data has {len(items)} items: {count} from number {first} on are too many."
        )
    return items[np.arange(first, first + count)]


@runtime_checkable
class Source(Protocol):
    """An endless sequence of batches whose order depends on the seed and the step alone."""

    @property
    def batch_size(self) -> int:
        """Rows in a whole batch, over all processes."""
        ...

    def batch(self, step: int, rows: slice) -> dict[str, np.ndarray]:
        """Rows `rows` of batch `step`: every leaf is (rows.stop - rows.start, ...)."""
        ...


@runtime_checkable
class Shuffling(Source, Protocol):
    """A `Source` that goes through finitely many items again and again."""

    @property
    def items(self) -> Items:
        """What it takes its rows from."""
        ...


@dataclass(frozen=True)
class Sampler:
    """One way of drawing from a model.

    request: a frozen dataclass with a default for each field, `seed` among them. It is the
        sampler's argument, the flags of `jaxgen sample`, the web form and the API's body at once.
    prepare: splits a request in what `jit` must know (static, hashable) and arrays.
    sample: pure and jittable: `(model, key, static, arrays) -> arrays`.
    render: arrays, on the host, to an `Artifact`.
    stream: optional, `(model, key, static, arrays) -> iterator of partial arrays`.
    prepare_many: optional, as `prepare`, of several requests that differ in their prompts alone:
        their samples lie one after the other.
    drafted: optional, `(sampler of a smaller model, that model) -> the same sampler`, faster.
    source: what another sampler's `drafted` asks of this one.
    continued: optional, `(request, its answer, what is said next) -> request`: of a conversation,
        whose requests have a `prompt`, what was said `before` that, and a `system` message.
    """

    request: type
    prepare: Callable[[Any], tuple[Hashable, Any]]
    sample: Callable[[Model, Key, Any, Any], Any]
    render: Callable[[Any], Artifact]
    stream: Callable[[Model, Key, Any, Any], Any] | None = None
    prepare_many: Callable[[Sequence[Any]], tuple[Hashable, Any]] | None = None
    drafted: Callable[[Sampler, Model], Sampler] | None = None
    source: Any = None
    continued: Callable[[Any, str, str], Any] | None = None


@dataclass(frozen=True)
class Preview:
    """Samples drawn while training: sampler `sampler` with `request`, every so many steps."""

    name: str
    sampler: str
    request: Any
    every: int


@dataclass(frozen=True)
class Evaluation:
    """Scores of a model.

    score: `(model, data, key) -> {name: float}`, `data` being the experiment's.
    every: also while training, every so many steps; None: only after the last step.
    """

    name: str
    score: Callable[[Model, Mapping[str, Any], Key], Mapping[str, float]]
    every: int | None = None


@dataclass(frozen=True)
class Best:
    """Which score names the best checkpoint, "evaluation/score", and which way is better."""

    score: str
    higher_is_better: bool = False


@dataclass(frozen=True)
class Experiment:
    """Everything the loop needs to train a model, and the command line to use it.

    init: `(key, batch) -> (params, variables)`; leaves may be boxed with logical axis names.
    updates: the train step, in order.
    data: "train" is a `Source`; the rest is for the evaluations. Looked into only to train and to
        evaluate, so that `jaxgen.data.sources.Deferred` spares sampling from reading it.
    steps: training steps in the whole run.
    seed: decides initialization, data order and every random number.
    pretrained: `(shapes) -> weights`, for a training that begins from weights that are there
        already: parameters (any part of the tree) that take the place of those that `init` made, in
        moving averages too. Asked once, before the first step and never on resume; `shapes` is the
        tree of all parameters with shape, dtype and sharding, into which files can be streamed.
    network: whatever a user needs to apply the parameters by hand; the loop never looks at it.
    notices: look for trouble that is no error; each warns once, until all has been well again.
    unit, units_per_row: what progress counts ("tokens", 256 a row).
    rules: sharding rules that take the place of those in `jaxgen/parallel/layout.py`, a mesh axis
        (several, or None) by logical axis: `rules={"vocab": None}`.
    """

    init: Callable[[Key, Batch], tuple[Params, Variables]]
    updates: Sequence[Update]
    data: Data
    steps: int
    seed: int
    pretrained: Callable[[Params], Params] | None = None
    network: Any = None
    samplers: Mapping[str, Sampler] = field(default_factory=dict)
    evaluations: Sequence[Evaluation] = ()
    previews: Sequence[Preview] = ()
    notices: Sequence[Notice] = ()
    best: Best | None = None
    log_every: int = 50
    checkpoint_every: int = 500
    unit: str = "examples"
    units_per_row: int = 1
    rules: Mapping[str, str | tuple[str, ...] | None] = field(default_factory=dict)

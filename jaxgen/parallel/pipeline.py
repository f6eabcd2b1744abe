"""Pipeline parallelism: a stack's layers lie on different devices, and parts of a batch pass them.

The devices along the mesh's `stage` axis hold each its own layers. A batch is cut in microbatches
that follow each other through the stages, so that all stages work at once, on different
microbatches (GPipe, Huang et al. 2019). Time is counted in ticks, in each of which every stage
works on one microbatch. With 3 stages and microbatches a to d:

    tick     0  1  2  3  4  5
    stage 0  a  b  c  d
    stage 1     a  b  c  d
    stage 2        a  b  c  d

The empty corners are the bubble. Going around several times, with fewer layers at a time, leaves
the corners as they are but makes every tick shorter (the interleaved schedule of Narayanan et al.
2021, section 2.2): here stage 0 goes on with a's second round after d's first.

It is one program for all stages, as in GSPMD (Xu et al. 2021, section 3.3). What the stages work on
is one array whose first axis is the stage; a tick is the same function for all places of that axis,
by `jax.vmap`; and what they hand on is a shift along it, which the compiler makes a
collective-permute. The backward pass is the gradient of that, all ticks in reverse.

Each tick reads a stage's weights again. Where they are split over `fsdp` as well they are gathered
in each tick, and where rows are split their gradients are added up over devices in each tick.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, PartitionSpec
from jaxtyping import Array, Float, Int

from jaxgen.errors import UserError
from jaxgen.parallel.layout import Pipeline, axes_of
from jaxgen.parallel.sharding import partition_spec

Rows = Float[Array, "rows time width"]


class Turn(NamedTuple):
    """What a stage works on in a tick: a microbatch, and the layers from this one on."""

    microbatch: Int[Array, ""]
    first_layer: Int[Array, ""]


# What a stage does to a microbatch: (parameters (its layers in a round, ...), x (rows, time,
# width), what is beside these rows, turn) -> (x, reports (its layers in a round, ...)).
Stage = Callable[[Any, Rows, Any, Turn], tuple[Rows, Any]]


@dataclass(frozen=True)
class Schedule:
    """Which stage works when on what."""

    stages: int
    microbatches: int
    rounds: int = 1

    @property
    def period(self) -> int:
        """Ticks from the start of a microbatch's round to that of its next."""
        # It comes back after as many ticks as there are stages.
        return self.microbatches if self.rounds == 1 else max(self.microbatches, self.stages)

    @property
    def ticks(self) -> int:
        """Ticks of the forward pass: M·R + S - 1, if there are as many microbatches as stages."""
        return (self.rounds - 1) * self.period + self.microbatches + self.stages - 1

    @property
    def bubble(self) -> float:
        """The share of all ticks in which a stage works in vain: (S - 1) / (M·R + S - 1)."""
        return 1 - self.microbatches * self.rounds / self.ticks

    def tick(self, microbatch: Any, round: Any, stage: Any) -> Any:
        """When the stage works on that."""
        return round * self.period + microbatch + stage


def schedule(layers: int, rows: int, mesh: Mesh | AbstractMesh, pipeline: Pipeline) -> Schedule:
    """How so many layers and rows go through the mesh's stages; one stage is no pipeline.

    Raises:
        UserError: if stages times rounds don't divide the layers; if the microbatches asked for
            don't divide the rows of each device, or are fewer than the stages with several rounds.
    """
    stages, rounds, asked = stages_of(mesh), pipeline.rounds, pipeline.microbatches
    if rounds < 1 or asked < 0:
        raise UserError(
            f"A pipeline of {rounds} rounds and {asked} microbatches isn't one: take at least 1 "
            "round, and 0 microbatches to have them chosen."
        )
    if layers % (stages * rounds):
        raise UserError(
            f"{layers} layers (or turns of several kinds of layer) don't divide over {stages} "
            f"stages in {rounds} rounds: take a multiple of {stages * rounds} layers."
        )
    (place,) = partition_spec(("batch",), (rows,), mesh)
    devices = math.prod(mesh.shape[axis] for axis in axes_of(place))
    each = rows // devices  # cut evenly, a device's rows stay its own
    if not asked:
        most = min(each, 4 * stages)
        fitting = max(count for count in range(1, most + 1) if each % count == 0)
        return Schedule(stages, fitting, rounds)
    if each % asked:
        raise UserError(
            f"{asked} microbatches don't divide {rows} rows over {devices} devices: take a divisor "
            f"of {each}."
        )
    if rounds > 1 and asked < stages:
        raise UserError(
            f"{asked} microbatches are fewer than {stages} stages, which makes {rounds} rounds no "
            f"faster than one: take at least {stages} microbatches, or one round."
        )
    return Schedule(stages, asked, rounds)


def stages_of(mesh: Mesh | AbstractMesh) -> int:
    """How many stages layers may be split over; 1 without a mesh, and inside `shard_map`."""
    kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    return mesh.shape["stage"] if kinds.get("stage") == AxisType.Auto else 1


def pipelined(
    stage: Stage,
    parameters: Any,
    x: Rows,
    beside: Any,
    schedule: Schedule,
    remat: bool | Callable[..., Any] = False,
) -> tuple[Rows, Any]:
    """What all layers make of x, one after the other, and what they report.

    Inside `jax.set_mesh` of a mesh with as many stages. Row i is in microbatch i % M, as in an
    accumulated gradient, so that no row changes its device.

    Args:
        stage: what a stage does in a tick.
        parameters: leaves (layers, ...), split over `stage`. Several rounds want other layers on a
            stage than its own: nearly all of a stage's parameters are then sent to other stages at
            the start, and as much comes back as gradients. Where neither rounds nor stages divide
            the other, the compiler even gathers all layers on all stages for that.
        x: what the first layer is given.
        beside: other arrays that the layers see. Those with as many rows as x are cut as x is and
            travel with it; the others are the same for all.
        remat: True keeps only what each stage is given in a tick, and computes the rest again in
            the backward pass (Huang et al. 2019, section 2.3); a policy keeps more, and False all
            that is ever computed.

    Returns:
        x, and reports (layers, ...): the mean of each layer's over the microbatches.
    """
    stages, period = schedule.stages, schedule.period
    parameters = jax.tree.map(partial(_by_stage, schedule), parameters)
    leaves, structure = jax.tree.flatten(beside)
    cut = [leaf.ndim > 0 and leaf.shape[0] == x.shape[0] for leaf in leaves]
    # Every stage has a copy of all microbatches, though only stage 0 reads it: so nothing has to be
    # broadcast in a tick, and gradients are added up over stages once, after the last.
    shared = [_copied(stages, leaf) for leaf, own in zip(leaves, cut, strict=True) if not own]
    travelling = [leaf for leaf, own in zip(leaves, cut, strict=True) if own]
    waiting, beside_waiting = jax.tree.map(partial(_dealt, schedule), (x, travelling))
    places, in_round = jnp.arange(stages), jax.tree.leaves(parameters)[0].shape[2]

    def work(
        own: Any, shared: Any, x: Rows, travelling: Any, turn: Turn, round: Int[Array, ""]
    ) -> tuple[Rows, Any]:
        # Of one round there is nothing to pick, and so nothing that a tick would have to copy.
        pick = 0 if schedule.rounds == 1 else round
        of_round = jax.tree.map(lambda leaf: leaf[pick], own)
        each, together = iter(travelling), iter(shared)
        leaves = [next(each) if moves else next(together) for moves in cut]
        return stage(of_round, x, jax.tree.unflatten(structure, leaves), turn)

    if remat or schedule.rounds > 1:
        policy = None if remat is True else remat or all_but_moved
        work = jax.checkpoint(work, prevent_cse=False, policy=policy)
    at_all_stages = jax.vmap(work, spmd_axis_name="stage")

    def tick(carry: tuple[Any, Any, Any], number: Int[Array, ""]) -> tuple[Any, Any]:
        waiting, arrived, beside_arrived = carry
        slot = number % period
        x, travelling = jax.tree.map(
            lambda there, arrived: jnp.where(_is_first(arrived), _taken(there, slot, 1), arrived),
            (waiting, beside_waiting),
            (arrived, beside_arrived),
        )
        since = jnp.maximum(number - places, 0)
        round = jnp.minimum(since // period, schedule.rounds - 1)
        turn = Turn(since % period, (round * stages + places) * in_round)
        x, reports = at_all_stages(parameters, shared, x, travelling, turn, round)
        arrived, beside_arrived = jax.tree.map(
            lambda leaf: jnp.roll(_placed(leaf, 1), 1, axis=0), (x, travelling)
        )
        # Back into its microbatch's slot, once the first one has been through all stages.
        slot = (number - stages + 1) % period
        back = jnp.where(number < stages - 1, _taken(waiting, slot, 1), arrived)
        waiting = jax.lax.dynamic_update_index_in_dim(waiting, back, slot, 1)
        return (waiting, arrived, beside_arrived), reports

    # What the stages work on before anything has come to them is thrown away. Real rows, unlike
    # zeros, can't have infinite gradients there, and so can't spoil those of the parameters.
    nothing_yet = jax.tree.map(lambda leaf: leaf[:, 0], (waiting, beside_waiting))
    carry = (waiting, *nothing_yet)
    (waiting, _, _), reports = jax.lax.scan(tick, carry, jnp.arange(schedule.ticks))
    # A sum in which only stage 0's slots count: an exact broadcast from there.
    out = jnp.where(_is_first(waiting), waiting, 0).sum(0, dtype=x.dtype)
    out = out[: schedule.microbatches].swapaxes(0, 1).reshape(x.shape)
    return out, jax.tree.map(partial(_mean, schedule), reports)


def _by_stage(schedule: Schedule, leaf: Array) -> Array:
    """(layers, ...) as (stages, rounds, layers a round, ...); rounds come before stages in it."""
    stages, rounds = schedule.stages, schedule.rounds
    return _placed(leaf.reshape(rounds, stages, -1, *leaf.shape[1:]).swapaxes(0, 1))


def _dealt(schedule: Schedule, leaf: Array) -> Array:
    """(rows, ...) as (stages, slots, rows a microbatch, ...), the same on every stage."""
    parts = leaf.reshape(-1, schedule.microbatches, *leaf.shape[1:]).swapaxes(0, 1)
    if schedule.period > schedule.microbatches:
        # A round's last slots have nothing of use in them.
        parts = parts[np.arange(schedule.period) % schedule.microbatches]
    return _copied(schedule.stages, parts, 2)


def _copied(stages: int, leaf: Array, rows_axis: int | None = None) -> Array:
    return _placed(jnp.broadcast_to(leaf[None], (stages, *leaf.shape)), rows_axis)


def _placed(leaf: Array, rows_axis: int | None = None) -> Array:
    """The same, its first axis over the stages, rows over the batch axes, others as they come."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return leaf
    places: list[Any] = ["stage"] + [PartitionSpec.UNCONSTRAINED] * (leaf.ndim - 1)
    if rows_axis is not None:
        (places[rows_axis],) = partition_spec(
            ("batch",), leaf.shape[rows_axis : rows_axis + 1], mesh
        )
    return jax.lax.with_sharding_constraint(leaf, PartitionSpec(*places))


def _taken(leaf: Array, index: Int[Array, ""], axis: int) -> Array:
    return jax.lax.dynamic_index_in_dim(leaf, index, axis, keepdims=False)


def _is_first(leaf: Array) -> Array:
    """(stages, 1, ...): whether that is stage 0."""
    return (jnp.arange(leaf.shape[0]) == 0).reshape(-1, *(1,) * (leaf.ndim - 1))


_MOVES = (
    jax.lax.dynamic_slice_p,
    jax.lax.gather_p,
    jax.lax.slice_p,
    jax.lax.squeeze_p,
    jax.lax.convert_element_type_p,
    jax.lax.reshape_p,
    jax.lax.transpose_p,
    jax.lax.broadcast_in_dim_p,
    jax.lax.concatenate_p,
    jax.lax.sharding_constraint_p,
)


def all_but_moved(primitive: Any, *_: Any, **__: Any) -> bool:
    """The policy of `jax.checkpoint` that keeps what was computed, not what was moved or cast.

    That takes little time to be made again. Parameters that are picked for a round, or gathered
    from their shards, are nothing else before they are multiplied by: kept for the backward pass,
    there would be a copy of them for every tick, or for all layers at once.
    """
    return primitive not in _MOVES


def _mean(schedule: Schedule, reports: Float[Array, "ticks stages layers"]) -> Array:
    """The mean over the microbatches, (layers,), of what was reported in ticks that count."""
    rounds, stages, microbatches = np.ogrid[
        : schedule.rounds, : schedule.stages, : schedule.microbatches
    ]
    chosen = reports[schedule.tick(microbatches, rounds, stages), stages]
    return chosen.mean(2).reshape(-1)

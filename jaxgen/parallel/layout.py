"""What a network may ask about how it is spread out, besides the mesh: rules, and the pipeline.

Set by `with layout_in_use(Layout(...))`, as a mesh is by `jax.set_mesh`; both are part of what
`jit` remembers a compiled program by.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import jax

from jaxgen.errors import UserError
from jaxgen.parallel.mesh import AXES

Place = str | tuple[str, ...] | None
Rules = Mapping[str, Place]

# Each of these holds other rows of a batch.
BATCH_AXES = ("slices", "data", "fsdp", "expert")

# Splitting the width over fsdp and the wide hidden axes over tensor is the layout of
# Megatron-LM (Shoeybi et al. 2019) on top of ZeRO-3 (Rajbhandari et al. 2020). Experts lie on
# devices that share the batch, as in GShard (Lepikhin et al. 2020); what isn't an expert's is
# split over those as over fsdp. Activations name "batch" and "time" only: where a kernel's axis
# is split, the compiler finds what that means for them.
RULES: Rules = {
    "batch": BATCH_AXES,
    "time": "sequence",
    "vocab": ("tensor", "stage"),
    "embed": ("fsdp", "expert"),
    "heads": "tensor",
    "head_dim": None,
    "mlp": "tensor",
    "experts": "expert",
    "channels_in": ("fsdp", "expert"),
    "channels_out": "tensor",
    "layers": "stage",
}


@dataclass(frozen=True)
class Pipeline:
    """How stacked layers run over the mesh's `stage` axis.

    microbatches: parts of a batch that follow each other through the stages; 0 takes four a stage,
        or as many as divide the rows.
    rounds: how often each part goes around all stages, with other layers each time.
    """

    microbatches: int = 0
    rounds: int = 1


@dataclass(frozen=True)
class Layout:
    """Over which mesh axes each logical axis is split, and how a pipeline runs.

    rules: pairs of a logical axis and its place, as `with_rules` makes them.
    """

    rules: tuple[tuple[str, Place], ...] = tuple(RULES.items())
    pipeline: Pipeline = Pipeline()

    @property
    def places(self) -> dict[str, Place]:
        """The rules as a table."""
        return dict(self.rules)

    @property
    def for_any_rows(self) -> Layout:
        """The same for batches of other sizes: a pipeline chooses its microbatches itself."""
        chosen = dataclasses.replace(self.pipeline, microbatches=0)
        return dataclasses.replace(self, pipeline=chosen)


def axes_of(place: Place) -> tuple[str, ...]:
    """The mesh axes of a place, of which there may be none, one or several."""
    return (place,) if isinstance(place, str) else tuple(place or ())


def with_rules(changed: Rules, pipeline: Pipeline = Pipeline()) -> Layout:
    """A layout with some of `RULES` replaced, or others added.

    Raises:
        UserError: for a place that isn't on the mesh, or another place for the batch.
    """
    for name, place in changed.items():
        if name == "batch":
            raise UserError(
                f"The sharding rule for 'batch' is fixed: rows lie over {', '.join(BATCH_AXES)}."
            )
        for axis in axes_of(place):
            if axis not in AXES:
                raise UserError(
                    f"The sharding rule for {name!r} names the mesh axis {axis!r}; there are "
                    f"{', '.join(AXES)}."
                )
    return Layout(tuple({**RULES, **changed}.items()), pipeline)


_in_use: Any = jax.make_user_context(Layout())


def layout_in_use(layout: Layout) -> AbstractContextManager[None]:
    """Within it, networks that are traced are laid out like this."""
    context: AbstractContextManager[None] = _in_use(layout)
    return context


def current_layout() -> Layout:
    """The layout that is in use; the default outside of `layout_in_use`."""
    layout: Layout = _in_use.value
    return layout

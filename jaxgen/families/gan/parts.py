"""What can be put into a game: the types of its parts."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Array, Float, Int

from jaxgen.experiment import Key, Params, Variables

Latent = Float[Array, "batch *latent"]
Label = Int[Array, "batch"]
Things = Float[Array, "batch *shape"]
Scalar = Float[Array, ""]


class Judgement(NamedTuple):
    """What a discriminator says; one without class logits may return the bare logits.

    logits: high for what looks real.
    class_logits: of an auxiliary classifier (ACGAN: Odena et al. 2017), else None.
    """

    logits: Float[Array, "batch *patches"]
    class_logits: Float[Array, "batch classes"] | None = None


@runtime_checkable
class Augmentation(Protocol):
    """Changes what the discriminator sees, real and made alike, without stopping the slope."""

    def init(self) -> Any:
        """What it keeps from step to step, arrays in a dictionary; {} where that is nothing."""
        ...

    def __call__(self, key: Key, things: Things, state: Any) -> Things:
        """Changed things of the same shape, each row by itself."""
        ...

    def following(self, state: Any, real_logits: Float[Array, "batch *patches"]) -> Any:
        """The next state, given what the discriminator says of real things."""
        ...


@runtime_checkable
class GeneratorPenalty(Protocol):
    """A term of the generator's loss with a memory, such as the length of paths."""

    @property
    def name(self) -> str:
        """In the metrics, where the value without its weight is logged."""
        ...

    @property
    def weight(self) -> float:
        """Its factor."""
        ...

    @property
    def every(self) -> int:
        """As a `Penalty`'s."""
        ...

    def init(self) -> Any:
        """What it keeps from step to step, arrays in a dictionary."""
        ...

    def __call__(
        self, params: Params, variables: Variables, latent: Latent, label: Any, key: Key, state: Any
    ) -> tuple[Scalar, Any]:
        """The term and the next state, given the generator's own parameters and variables."""
        ...

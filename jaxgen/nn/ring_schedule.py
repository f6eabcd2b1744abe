"""Which device of a ring works on which chunks of a sequence, and what it sees of another's keys.

Ring attention (Liu et al. 2023) with the work of a causal mask spread evenly. With time cut into n
stretches the first device would have next to nothing to do and the last would have all of it. So
time is cut into 2n chunks for n devices, and device i works on chunks i and 2n−1−i, a low and a
high one (striped attention, Brandon et al. 2023, balances with finer stripes; these two chunks are
the cut of Megatron-LM's context parallelism). Keys come from

    an earlier device: both query chunks see its low chunk, and nothing of its high one; or
    a later device: the high query chunk sees both its chunks, and the low one nothing;

and these are two products of one size. A window needs no such balance: it hides all but a few
devices' keys from every device, and those aren't even sent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array


class Pair(NamedTuple):
    """Some of a device's queries, and those keys at hand which they may see.

    offset: how many places the first query stands after the first key, which decides what is
        visible; None if all is.
    """

    queries: slice
    keys: slice
    offset: int | None


Pairs = tuple[Pair, ...]


@dataclass(frozen=True)
class Ring:
    """What the devices of a ring have in common.

    axis: the mesh axis along which they stand.
    size: how many they are.
    length: how many positions each holds.
    causal, window: as of a `Visibility`; the window is None unless it hides anything.
    """

    axis: str
    size: int
    length: int
    causal: bool
    window: int | None

    @property
    def zigzag(self) -> bool:
        """Whether device i works on chunks i and 2n−1−i, and not on 2i and 2i+1."""
        return self.causal and self.window is None

    @property
    def chunks(self) -> tuple[slice, slice]:
        """Where a device has its low and its high chunk."""
        half = self.length // 2
        return slice(0, half), slice(half, self.length)

    def own(self) -> Pairs:
        """What queries see of their own device's keys."""
        whole = slice(0, self.length)
        if not self.zigzag:
            return (Pair(whole, whole, 0),)
        low, high = self.chunks
        return Pair(low, low, 0), Pair(high, high, 0), Pair(high, low, None)

    def others(self, stop: int | Array) -> tuple[Pairs, Pairs]:
        """What queries see of the keys that came `stop` devices far.

        First if those come from a device before this one, then if they have passed the ring's end,
        and come from a device after it. Only a window has to know `stop` while tracing.
        """
        whole = slice(0, self.length)
        if self.zigzag:
            low, high = self.chunks
            return (Pair(whole, low, None),), (Pair(high, whole, None),)
        if self.window is None:
            return 2 * ((Pair(whole, whole, None),),)
        assert isinstance(stop, int)
        earlier, later = stop * self.length, (stop - self.size) * self.length
        # The nearest places of two stretches are so much nearer than their first ones.
        nearer = self.length - 1
        sees_earlier = earlier - nearer < self.window
        sees_later = not self.causal and -later - nearer < self.window
        return (
            (Pair(whole, whole, earlier),) if sees_earlier else (),
            (Pair(whole, whole, later),) if sees_later else (),
        )

    def stops(self) -> list[int]:
        """How many devices far keys have come whenever some device sees any of them."""
        if self.window is None:
            return list(range(self.size))
        return [0] + [stop for stop in range(1, self.size) if any(self.others(stop))]


def to_zigzag(ring: Ring, x: Array, axis: int) -> Array:
    """A device's chunks i and 2n−1−i of what lies in order, chunks 2i and 2i+1 on device i."""
    # All even chunks go to different devices, and so do all odd ones; i and 2n−1−i are one of each.
    even, odd = (
        jax.lax.ppermute(chunk, ring.axis, _routes(ring.size, parity))
        for parity, chunk in enumerate(jnp.split(x, 2, axis))
    )
    low_is_even = jax.lax.axis_index(ring.axis) % 2 == 0
    low, high = jnp.where(low_is_even, even, odd), jnp.where(low_is_even, odd, even)
    return jnp.concatenate([low, high], axis)


def from_zigzag(ring: Ring, x: Array, axis: int) -> Array:
    """The inverse of `to_zigzag`."""
    low, high = jnp.split(x, 2, axis)
    low_is_even = jax.lax.axis_index(ring.axis) % 2 == 0
    chunks = jnp.where(low_is_even, low, high), jnp.where(low_is_even, high, low)
    back = [
        jax.lax.ppermute(chunk, ring.axis, [(to, of) for of, to in _routes(ring.size, parity)])
        for parity, chunk in enumerate(chunks)
    ]
    return jnp.concatenate(back, axis)


def _routes(size: int, parity: int) -> list[tuple[int, int]]:
    """From which device to which the even (parity 0) or odd (1) chunks go."""
    chunks = [2 * device + parity for device in range(size)]
    return [
        (device, chunk if chunk < size else 2 * size - 1 - chunk)
        for device, chunk in enumerate(chunks)
    ]

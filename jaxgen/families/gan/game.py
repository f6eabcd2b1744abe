"""The game of two networks: a generator makes, a discriminator judges, each has one update.

Goodfellow et al. 2014, "Generative Adversarial Networks". Everything that later work changed is a
part put in: what they minimize (`nn/adversary.py`), what holds the discriminator's slope
(`penalties.py`), how the pictures are changed before it sees them (`Augmentation`), the networks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from jaxgen.errors import UserError
from jaxgen.experiment import Batch, Context, Key, Model, Output, Params, Variables
from jaxgen.families.gan.parts import (
    Augmentation,
    GeneratorPenalty,
    Judgement,
    Label,
    Latent,
    Scalar,
    Things,
)
from jaxgen.families.gan.penalties import Penalty
from jaxgen.nn.adversary import Adversary


@dataclass(frozen=True)
class Game:
    """Two networks and what they play for.

    Parameters are {"generator", "discriminator"}, one update each. `variables` has the networks'
    own under the same names (running statistics, spectral vectors), "augmentation" and
    "penalties". Batches have an "image" (or another leaf, `thing`) and, if conditional, a "label".

    generator: `(latent, label, train) -> things`; label is None for an unconditional game.
    discriminator: `(things, label, train) -> Judgement`, or bare logits.
    adversary: what they minimize.
    latent: numbers of a latent, drawn from N(0, 1).
    classes: of the label; 0: unconditional.
    penalties: of the discriminator; generator_penalties: of the generator.
    augmentation: what happens to things before the discriminator sees them.
    class_weight: of the cross entropy of class logits, for both, where there are any.
    thing: the batch's leaf that the discriminator looks at.
    """

    generator: nn.Module
    discriminator: nn.Module
    adversary: Adversary
    latent: int = 100
    classes: int = 0
    penalties: tuple[Penalty, ...] = ()
    generator_penalties: tuple[GeneratorPenalty, ...] = ()
    augmentation: Augmentation | None = None
    class_weight: float = 1.0
    thing: str = "image"

    def init(self, key: Key, batch: Batch) -> tuple[Params, Variables]:
        """Both networks' parameters and variables.

        Raises `UserError` for a batch without labels where the game needs them, and for a generator
        of other classes than the game's, or that makes things of another shape than the batch's.
        """
        one, other = jax.random.split(key)
        real, label = self._real(batch)
        # A discriminator may have its classes elsewhere, in its head.
        known = getattr(self.generator, "classes", self.classes)
        if known != self.classes:
            raise UserError(
                f"The game has {self.classes} classes and its generator {known}: give both the "
                "same, 0 for none."
            )
        latent = jnp.zeros((real.shape[0], self.latent))
        made = dict(self.generator.init(one, latent, label, train=False))
        judged = dict(self.discriminator.init(other, jnp.asarray(real), label, train=False))
        shape = jax.eval_shape(lambda: self.generator.apply(made, latent, label, train=False)).shape
        if shape != real.shape:
            raise UserError(
                f"The generator makes {shape[1:]} and the data is {real.shape[1:]}: give it widths "
                "for as many doublings as lie between."
            )
        params = {"generator": made.pop("params"), "discriminator": judged.pop("params")}
        variables = {
            "generator": made,
            "discriminator": judged,
            "augmentation": self.augmentation.init() if self.augmentation else {},
            "penalties": {each.name: jnp.zeros(()) for each in self.penalties}
            | {
                each.name: {"last": jnp.zeros(()), "state": each.init()}
                for each in self.generator_penalties
            },
        }
        return params, variables

    def discriminator_loss(self, params: Params, context: Context) -> Output:
        """What the update that moves "discriminator" minimizes.

        Logs the mean logits "real" and "made", each penalty, and with class logits the share of
        real things whose "class" is seen.
        """
        variables = context.variables
        real, label = self._real(context.batch)
        draw, make, first, second, look, hold = jax.random.split(context.key, 6)
        latent = self.latents(draw, real.shape[0])
        fixed = jax.lax.stop_gradient(params["generator"])
        made, _ = _trained(self.generator, fixed, variables["generator"], latent, label, make)
        made = jax.lax.stop_gradient(made)
        real, made = self._changed(first, real, variables), self._changed(second, made, variables)
        judge = params["discriminator"]
        of_real, after = self._judge(judge, variables["discriminator"], real, label, look)
        of_made, after = self._judge(judge, after, made, label, jax.random.fold_in(look, 1))
        value = self.adversary.discriminator(of_real.logits, of_made.logits)
        metrics = {"real": jnp.mean(of_real.logits), "made": jnp.mean(of_made.logits)}
        if of_real.class_logits is not None:
            value += self.class_weight * (
                _cross_entropy(of_real, label) + _cross_entropy(of_made, label)
            )
            seen: Any = jnp.argmax(of_real.class_logits, -1) == label
            metrics["class"] = jnp.mean(seen, dtype=jnp.float32)

        def critic(things: Things) -> Float[Array, "batch *patches"]:
            return self._judge(judge, variables["discriminator"], things, label, look)[0].logits

        last = dict(variables["penalties"])
        for index, each in enumerate(self.penalties):
            key = jax.random.fold_in(hold, index)
            term, last[each.name] = _lazily(
                context.step,
                each.every,
                partial(each.of, critic, real, made, key),
                last[each.name],
            )
            value += each.weight_at(context.step) * term
            metrics[each.name] = last[each.name]
        after = variables | {"discriminator": after, "penalties": last}
        if self.augmentation:
            state = self.augmentation.following(variables["augmentation"], of_real.logits)
            after = after | {"augmentation": state}
            metrics |= {f"augmentation_{name}": jnp.mean(leaf) for name, leaf in state.items()}
        return Output(value, weight=real.shape[0], metrics=metrics, variables=after)

    def generator_loss(self, params: Params, context: Context) -> Output:
        """What the update that moves "generator" minimizes; logs each penalty."""
        variables = context.variables
        real, label = self._real(context.batch)
        draw, make, first, second, look, hold = jax.random.split(context.key, 6)
        latent = self.latents(draw, real.shape[0])
        made, after = _trained(
            self.generator, params["generator"], variables["generator"], latent, label, make
        )
        judge = jax.lax.stop_gradient(params["discriminator"])
        states = variables["discriminator"]
        real, made = self._changed(first, real, variables), self._changed(second, made, variables)
        of_real, _ = self._judge(judge, states, real, label, look)
        of_made, _ = self._judge(judge, states, made, label, jax.random.fold_in(look, 1))
        value = self.adversary.generator(of_real.logits, of_made.logits)
        metrics = {}
        if of_made.class_logits is not None:
            value += self.class_weight * _cross_entropy(of_made, label)
        last = dict(variables["penalties"])
        for index, each in enumerate(self.generator_penalties):
            key, state = jax.random.fold_in(hold, index), last[each.name]["state"]
            rows = (params["generator"], variables["generator"], latent, label, key, state)
            term, (measured, state) = _lazily(
                context.step,
                each.every,
                partial(each, *rows),
                (last[each.name]["last"], state),
            )
            value += each.weight * term
            last[each.name] = {"last": measured, "state": state}
            metrics[each.name] = measured
        after = variables | {"generator": after, "penalties": last}
        return Output(value, weight=real.shape[0], metrics=metrics, variables=after)

    def latents(self, key: Key, count: int) -> Latent:
        """So many latents from N(0, 1)."""
        return jax.random.normal(key, (count, self.latent))

    def generate(self, model: Model, latent: Latent, label: Label | None = None) -> Things:
        """What the trained generator makes of latents, with its running statistics."""
        made = {"params": model.params["generator"], **model.variables["generator"]}
        things: Any = self.generator.apply(made, latent, label, train=False)
        return things

    def judge(self, model: Model, things: Things, label: Label | None = None) -> Judgement:
        """What the trained discriminator says, with its running statistics."""
        judge = {"params": model.params["discriminator"], **model.variables["discriminator"]}
        return _judgement(self.discriminator.apply(judge, things, label, train=False))

    def _real(self, batch: Mapping[str, Any]) -> tuple[Things, Label | None]:
        if not self.classes:
            return jnp.asarray(batch[self.thing]), None
        if "label" not in batch:
            raise UserError(
                f"A game of {self.classes} classes needs data with a label; this data has only "
                f"{', '.join(batch)}. Take labelled data, or play without classes."
            )
        return jnp.asarray(batch[self.thing]), jnp.asarray(batch["label"])

    def _changed(self, key: Key, things: Things, variables: Variables) -> Things:
        if self.augmentation is None:
            return things
        return self.augmentation(key, things, variables["augmentation"])

    def _judge(
        self, params: Params, variables: Variables, things: Things, label: Label | None, key: Key
    ) -> tuple[Judgement, Variables]:
        said, after = _trained(self.discriminator, params, variables, things, label, key)
        return _judgement(said), after


def _trained(
    network: nn.Module, params: Params, variables: Variables, given: Any, label: Any, key: Key
) -> tuple[Any, Variables]:
    """What a network answers while it trains, with dropout and noise, and its variables then."""
    keys = dict(zip(("dropout", "noise"), jax.random.split(key), strict=True))
    answer, after = network.apply(
        {"params": params, **variables},
        given,
        label,
        train=True,
        rngs=keys,
        mutable=list(variables),
    )
    return answer, {name: after[name] for name in variables}


def _judgement(said: Any) -> Judgement:
    return said if isinstance(said, Judgement) else Judgement(said)


def _cross_entropy(said: Judgement, label: Label | None) -> Scalar:
    if said.class_logits is None or label is None:
        raise UserError("An auxiliary classifier needs labelled data: give the game its classes.")
    losses = optax.softmax_cross_entropy_with_integer_labels(said.class_logits, label)
    return jnp.mean(losses)


def _lazily(step: Any, every: int, term: Callable[[], Any], last: Any) -> tuple[Scalar, Any]:
    """(the term's value, counted `every` times where it is worked out; what it was last)."""

    def now() -> tuple[Scalar, Any]:
        answer = term()
        value = answer[0] if isinstance(answer, tuple) else answer
        return every * value, jax.lax.stop_gradient(answer)

    if every == 1:
        return now()
    return jax.lax.cond((step + 1) % every == 0, now, lambda: (jnp.zeros(()), last))

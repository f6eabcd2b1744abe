"""Trouble between two networks that is no error: one of them has won, or classes are lost.

Each function makes a `Notice` for an experiment's `notices`, and looks at values that the training
logs anyway.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from jaxgen.errors import UserError
from jaxgen.experiment import Notice


def discriminator_saturated(update: str = "discriminator", margin: float = 10.0) -> Notice:
    """Warns where real and made things are told apart by more than `margin` logits.

    There the logistic function is flat: 5 below the middle, the minimax generator keeps less than a
    hundredth of its slope (Arjovsky & Bottou 2017, theorem 2.4). For losses of cross entropies: a
    Wasserstein critic's logits have a scale of their own, and hinge and least squares stop at
    differences of 2 and 1.

    update: the discriminator's, whose mean logits "real" and "made" are looked at.
    """
    if margin <= 0:
        raise UserError(f"A discriminator is saturated past a margin above 0, not {margin}.")

    def notice(values: Mapping[str, float]) -> str | None:
        found = [values.get(f"{update}/{what}") for what in ("real", "made")]
        if found[0] is None or found[1] is None:
            return None
        apart = found[0] - found[1]
        if apart <= margin:
            return ""
        return (
            f"{update} is saturated: its logits of real and made things lie {apart:.1f} apart "
            f"(more than {margin:g}), so the generator gets little slope. Try a lower learning "
            f"rate of {update}, or a penalty of its slope (R1, gradient penalty)."
        )

    return notice


def generator_stalled(update: str = "generator", least: float = 1e-5) -> Notice:
    """Warns where the generator's gradient, over all it moves, has a norm below `least`.

    It looks at the slope itself, and so serves every loss.

    update: the generator's, whose "gradient_norm" is looked at.
    """
    if least <= 0:
        raise UserError(f"A generator stalls below a gradient norm above 0, not {least}.")

    def notice(values: Mapping[str, float]) -> str | None:
        norm = values.get(f"{update}/gradient_norm")
        if norm is None:
            return None
        if norm >= least:
            return ""
        return (
            f"{update} has stalled: the norm of its gradient is {norm:.1e} (less than {least:g}). "
            "Try a non-saturating or relativistic loss, or a lower learning rate of the "
            "discriminator."
        )

    return notice


def classes_falling(
    score: str = "classes/entropy", classes: int = 10, share: float = 0.75
) -> Notice:
    """Warns where the class entropy of samples is below `share` of log(classes): a collapse.

    0.75 of ten classes' is what between five and six equally frequent ones have.

    score: in nats, as `evaluation/modes.py` has it, by the name that it is logged under.
    """
    if classes < 2 or not 0 < share <= 1:
        raise UserError(
            f"Classes fall below a share in (0, 1] of the entropy of 2 classes or more, not below "
            f"{share} of {classes}."
        )

    def notice(values: Mapping[str, float]) -> str | None:
        entropy = values.get(score)
        if entropy is None:
            return None
        most = math.log(classes)
        if entropy >= share * most:
            return ""
        return (
            f"Classes are being lost: {score} is {entropy:.2f} nats, {entropy / most:.0%} of what "
            f"{classes} equally frequent classes have (less than {share:.0%}). Try a lower "
            "learning rate of the generator, or a penalty of the discriminator's slope (R1, R2)."
        )

    return notice


def variety_falling(score: str, full: float = 1.0, share: float = 0.75) -> Notice:
    """Warns where a measure of how many things samples show is below `share` of `full`: a collapse.

    score: the modes that are found, or a spread, by the name that it is logged under.
    full: what it is where nothing is lost.
    """
    if full <= 0 or not 0 < share <= 1:
        raise UserError(
            f"Variety falls below a share in (0, 1] of something above 0, not below {share} of "
            f"{full}."
        )

    def notice(values: Mapping[str, float]) -> str | None:
        seen = values.get(score)
        if seen is None:
            return None
        if seen >= share * full:
            return ""
        return (
            f"Variety is being lost: {score} is {seen:.3g} of {full:g} (less than {share:.0%}). "
            "Try a lower learning rate of the generator, or a penalty of the discriminator's slope "
            "(R1, R2)."
        )

    return notice

"""How different samples are from each other, beside how different real items are."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from jaxgen.errors import UserError
from jaxgen.evaluation.neighbours import enough


def relative_spread(
    real: Float[np.ndarray, "count *shape"], samples: Float[np.ndarray, "samples *shape"]
) -> float:
    """The samples' standard deviation over that of real items: 0 where all samples are one.

    The root of the mean variance of an entry, in float64. A watch on collapse where no classifier
    is at hand: it sees samples that are all alike, and says little about classes or details.

    Raises `UserError` where a set has fewer than 2, or the real items are all the same.
    """
    enough("The relative spread", 2, real_items=len(real), samples=len(samples))
    of_real, of_samples = (
        float(np.sqrt(np.mean(np.var(each, axis=0, dtype=np.float64)))) for each in (real, samples)
    )
    if of_real == 0:
        raise UserError("The relative spread needs real items that differ from each other.")
    return of_samples / of_real

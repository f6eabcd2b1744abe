"""Which checkpoints stay: the newest, and the best by a run's own score."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxgen.experiment import Best


@dataclass
class Ranking:
    """The score that ranks, of each checkpoint that has it.

    best: which score that is, and which way is better; None: nothing is ranked.
    """

    best: Best | None
    _scores: dict[int, float] = field(default_factory=dict)

    def note(self, step: int, scores: Mapping[str, float]) -> None:
        """Remembers the score of checkpoint `step`; one that isn't finite counts as none."""
        if self.best is not None and math.isfinite(scores.get(self.best.score, math.nan)):
            self._scores[step] = scores[self.best.score]

    def best_of(self, steps: Sequence[int]) -> int | None:
        """The one of `steps` with the best score, the first of equals; None if none has a score."""
        ranked = {step: self._scores[step] for step in steps if step in self._scores}
        if self.best is None or not ranked:
            return None
        pick = max if self.best.higher_is_better else min
        return pick(ranked, key=lambda step: ranked[step])


@dataclass(frozen=True)
class NewestAndBest:
    """Keeps the newest `keep` and `best_step`, as a `preservation_policy` of Orbax.

    Orbax's own policies forget scores when a run is resumed.
    """

    keep: int
    best_step: Callable[[], int | None]

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        """One answer a checkpoint, oldest first."""
        steps = [checkpoint.step for checkpoint in checkpoints]
        kept = {*sorted(steps)[-self.keep :], self.best_step()}
        return [step in kept for step in steps]

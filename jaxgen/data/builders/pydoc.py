"""Python's documented functions as a TFDS data set: the standard library's, and some packages'."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from jaxgen.data.python_source import documented

# The documented ones of what jaxgen itself needs, so that they are wherever it is: the module, and
# the distribution that brings it.
_PACKAGES = {
    "PIL": "pillow", "absl": "absl-py", "chex": "chex", "etils": "etils", "flax": "flax",
    "grain": "grain", "jax": "jax", "joblib": "joblib", "nltk": "nltk", "numpy": "numpy",
    "optax": "optax", "orbax": "orbax-checkpoint", "psutil": "psutil", "pydantic": "pydantic",
    "requests": "requests", "rich": "rich", "sacrebleu": "sacrebleu", "scipy": "scipy",
    "sklearn": "scikit-learn", "tensorflow_datasets": "tensorflow-datasets",
    "treescope": "treescope", "tyro": "tyro",
}  # fmt: skip


class Pydoc(tfds.core.GeneratorBasedBuilder):
    """Functions and methods with what their authors say of them, one split, "train".

    "module" is "email.utils", "name" "formataddr" or "Message.as_string"; "source" is written anew
    without documentation and comments, "documentation" is whole; "standard" says whether Python
    itself brings it. In order of packages, files and lines, with nothing left out. The metadata
    has the version of Python and of each package: with others the data are others. Each text is
    its authors', under the license of its package; the data stay on the machine.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "What is installed."}  # noqa: RUF012  (TFDS's own field)
    # TFDS would find it through importlib_resources, which it needs without asking for it.
    code_path = epath.Path(__file__)

    @staticmethod
    def places() -> dict[str, tuple[Path, str | None]]:
        """Each package's directory or file, and its distribution; None is Python itself."""
        found: dict[str, tuple[Path, str | None]] = {}
        library = Path(sysconfig.get_path("stdlib"))
        for name in sorted(sys.stdlib_module_names):
            for path in (library / name, library / f"{name}.py"):
                if path.exists():
                    found[name] = path, None
        for name, distribution in _PACKAGES.items():
            spec = importlib.util.find_spec(name)  # runs nothing of a package at the top
            if spec is not None and spec.submodule_search_locations:
                found[name] = Path(next(iter(spec.submodule_search_locations))), distribution
        return found

    def _info(self) -> tfds.core.DatasetInfo:
        versions = {"python": platform.python_version()}
        for _, distribution in self.places().values():
            if distribution is not None:
                versions[distribution] = importlib.metadata.version(distribution)
        return tfds.core.DatasetInfo(
            builder=self,
            description="Python functions and what their documentation says.",
            features=tfds.features.FeaturesDict(
                {
                    **{
                        name: tfds.features.Text()
                        for name in ("module", "name", "source", "documentation")
                    },
                    "standard": np.bool_,
                }
            ),
            metadata=tfds.core.MetadataDict(versions),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        number = 0
        for path, distribution in self.places().values():
            for function in documented(path):
                yield number, vars(function) | {"standard": distribution is None}
                number += 1

"""Python functions to describe: the data set `pydoc`, divided by package."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from jaxgen.data.datasets import Directory, load
from jaxgen.data.documents import records
from jaxgen.data.python_source import Documented

# Whole packages, so that no neighbour of a function is learned: of Python itself some, and some of
# several trades and styles.
_DEV_PACKAGES = frozenset(("absl", "optax", "shelve", "tarfile", "urllib", "zipfile"))
_TEST_PACKAGES = frozenset(
    ("PIL", "email", "http", "joblib", "requests", "rich", "shutil", "statistics")
)


@dataclass(frozen=True)
class PythonFunction(Documented):
    """One function of `pydoc`."""

    standard: bool  # of Python's own library

    @property
    def package(self) -> str:
        """Where it is installed: "email"."""
        return self.module.split(".")[0]

    @cached_property
    def summary(self) -> str:
        """The first line of its documentation."""
        return self.documentation.splitlines()[0].strip()

    @property
    def own_name(self) -> str:
        """Its name without its class."""
        return self.name.rsplit(".", 1)[-1]


Functions = tuple[PythonFunction, ...]


def python_functions(data_dir: Directory = None) -> tuple[Functions, Functions, Functions]:
    """Functions as (training, dev, test), divided by package, each in the data set's order.

    Of `pydoc` are left out, as CodeSearchNet did (Husain et al. 2019, section 2.1): tests and
    double-underscore methods, functions of fewer than three lines, summaries of fewer than three
    words; besides, summaries that begin with no letter. One source, and one summary in a package,
    comes once; training has no source and no summary that is held out, dev none of the test.
    """
    source = load("pydoc", "train", data_dir)
    texts = ("module", "name", "source", "documentation")
    functions = (
        PythonFunction(**{name: found[name].decode() for name in texts}, standard=found["standard"])
        for found in records(source)
    )
    good = _once(function for function in functions if _is_described(function))
    test = tuple(function for function in good if function.package in _TEST_PACKAGES)
    dev = _without(test, (function for function in good if function.package in _DEV_PACKAGES))
    held_out = _DEV_PACKAGES | _TEST_PACKAGES
    rest = (function for function in good if function.package not in held_out)
    return _without(dev + test, rest), dev, test


def standard_functions(
    most: int = 0, data_dir: Directory = None
) -> tuple[Functions, Functions, Functions]:
    """Those of Python's own library, in the same parts; the first `most` of each, 0 being all."""
    training, dev, test = (
        tuple(function for function in part if function.standard)[: most or None]
        for part in python_functions(data_dir)
    )
    return training, dev, test


def words_of(name: str) -> str:
    """A function's name as words: "getFileSize" and "_get_file_size" are "get file size"."""
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    return " ".join(apart.replace("_", " ").lower().split())


def _is_described(function: PythonFunction) -> bool:
    name, summary = function.own_name, function.summary
    return (
        not name.startswith("__")
        and "test" not in function.name.lower()
        and len(function.source.splitlines()) >= 3
        and len(summary.split()) >= 3
        and summary[0].isalpha()
    )


def _once(functions: Iterable[PythonFunction]) -> list[PythonFunction]:
    sources: set[str] = set()
    summaries: set[tuple[str, str]] = set()
    kept = []
    for function in functions:
        told = function.package, function.summary
        if function.source not in sources and told not in summaries:
            kept.append(function)
        sources.add(function.source)
        summaries.add(told)
    return kept


def _without(held_out: Functions, functions: Iterable[PythonFunction]) -> Functions:
    """Those of `functions` of which neither text is one of `held_out`'s."""
    told = {text for function in held_out for text in (function.source, function.summary)}
    return tuple(f for f in functions if f.source not in told and f.summary not in told)

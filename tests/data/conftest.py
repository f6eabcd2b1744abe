"""Where the real data sets lie, if they are at hand, and a cache of the tests' own."""

import os
from pathlib import Path

import pytest
from made_up_data import write_speeches


@pytest.fixture(scope="session")
def prepared_sets() -> Path:
    """A directory of prepared TFDS sets; the tests that read real data are skipped without one."""
    beside = Path(__file__).parents[3] / "shared" / "tfds"
    directory = Path(os.environ.get("TFDS_DATA_DIR", beside))
    if not (directory / "mnist").exists() or not (directory / "tiny_shakespeare").exists():
        pytest.skip("no prepared mnist and tiny_shakespeare: set TFDS_DATA_DIR")
    return directory


@pytest.fixture(scope="session")
def own_sets(tmp_path_factory) -> Path:
    """A directory that our own data sets prepare themselves in, once for all tests."""
    return tmp_path_factory.mktemp("tfds")


@pytest.fixture(scope="session")
def made_up_speeches(tmp_path_factory) -> Path:
    """A data directory with speeches as npm's package has them: 26 of three presidents."""
    directory = tmp_path_factory.mktemp("speeches")
    given = [("Zoë Long", year) for year in range(1900, 1916)]
    given += [("Ann Short", 1915)] + [("Mid Mc Term", year) for year in range(1916, 1925)]
    write_speeches(directory, [(name, year, f" Friends, it is {year}. ") for name, year in given])
    return directory

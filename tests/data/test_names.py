"""Names come from a package that is read, not run, and every tenth is held out."""

import importlib.util

import pytest
from made_up_data import write_names

from jaxgen.data.names import names
from jaxgen.errors import UserError


def test_every_tenth_name_is_held_out(tmp_path):
    write_names(tmp_path)
    training, held_out = names("male", tmp_path)
    assert (len(training), len(held_out)) == (54, 6)
    assert training[0] == "ananan" and held_out[0] == "andoan"
    assert not set(training) & set(held_out)


def test_without_the_package_its_name_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # not what the user has prepared
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install names"):
        names(data_dir=tmp_path)

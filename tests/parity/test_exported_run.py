"""A run trained here, opened by transformers: the same perplexity on the same text."""

import sys
from pathlib import Path

import pytest
from etils import epath
from made_up_data import python_speeches, write_speeches

from jaxgen.training import beginning, experiment_file, runs

pytest.importorskip("torch")
pytest.importorskip("transformers")
ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import exported_perplexity  # noqa: E402


@pytest.mark.parametrize("name", ["speeches_bpe_gpt", "speeches_lora"])
def test_the_exported_run_scores_the_same(name, tmp_path, monkeypatch):
    write_speeches(tmp_path / "tfds", python_speeches())
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    file = experiment_file.read(epath.Path(ROOT / "experiments" / f"{name}.py"))
    run = beginning.begin(
        tmp_path / "run", file, "tiny", file.settings["tiny"], beginning.Options(), {}, []
    )
    scores = runs.carry_on(run)
    ours, theirs = exported_perplexity.both(run.path, tmp_path / "exported")
    assert ours == pytest.approx(scores["held_out/nats"], abs=1e-5)
    assert theirs == pytest.approx(ours, abs=1e-4)

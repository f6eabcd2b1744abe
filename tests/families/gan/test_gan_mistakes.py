"""What can be asked of a game that can't be: one sentence on the command line, no traceback."""

from pathlib import Path

import pytest

from jaxgen.cli import main

EXPERIMENT = """
from dataclasses import dataclass

import flax.linen as nn
import numpy as np
import optax

from jaxgen.data.sources import Arrays, Shuffled
from jaxgen.experiment import Experiment, Update
from jaxgen.families.gan.game import Game
from jaxgen.nn.adversary import HINGE


@dataclass(frozen=True)
class Config:
    steps: int = 2  # training steps


SETTINGS = {"default": Config()}


class Player(nn.Module):
    @nn.compact
    def __call__(self, given, label=None, *, train=False):
        return nn.Dense(2)(given)


def build(config):
    game = Game(Player(), Player(), HINGE, latent=3, classes=10)
    unlabelled = Arrays({"image": np.zeros((16, 2), np.float32)})
    return Experiment(
        init=game.init,
        updates=[Update("generator", game.generator_loss, optax.adam(1e-3), moves="generator")],
        data={"train": Shuffled(unlabelled, 8, 0)},
        steps=config.steps,
        seed=0,
    )
"""


def test_a_conditional_game_refuses_unlabelled_data(tmp_path, capsys):
    Path(tmp_path, "unlabelled.py").write_text(EXPERIMENT)
    with pytest.raises(SystemExit) as stopped:
        main(["train", str(tmp_path / "unlabelled.py"), "--run", str(tmp_path / "run")])
    assert stopped.value.code == 1
    said = capsys.readouterr().err
    assert "A game of 10 classes needs data with a label; this data has only image." in said
    assert "Traceback" not in said

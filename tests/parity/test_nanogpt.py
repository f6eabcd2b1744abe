"""Our GPT and nanoGPT's: the same loss, gradients and training from the same weights."""

import dataclasses
import sys
from functools import partial
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from etils import epath

from jaxgen.data.tokenizers import CharacterTokenizer
from jaxgen.experiment import Context
from jaxgen.parallel import sharding
from jaxgen.training import experiment_file

torch = pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import gpt_step  # noqa: E402
import torch_gpt  # noqa: E402
import torch_nanogpt  # noqa: E402


def test_loss_and_gradients_are_nanogpts():
    layers, heads, width, context, batch = 2, 4, 32, 16, 3
    torch.manual_seed(0)
    model = torch_gpt.GPT(gpt_step.VOCABULARY, width, layers, heads, context, dropout=0.0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)  # far from where every model looks alike
    tokens = np.random.default_rng(0).integers(gpt_step.VOCABULARY, size=(batch, context + 1))
    params = gpt_step.as_jax(model, heads, lambda parameter: parameter.detach())
    loss = gpt_step.next_token_loss(
        gpt_step.language_model(gpt_step.network(layers, heads, width, context))
    )
    gpt_step.agree(loss, params, model, partial(gpt_step.as_jax, model, heads), tokens)


def nanogpt(**sizes):
    """The experiment's `nanogpt_cpu` setting, with no corpus."""
    path = epath.Path(__file__).parents[2] / "experiments" / "shakespeare_gpt.py"
    file = experiment_file.read(path)
    config = dataclasses.replace(file.settings["nanogpt_cpu"], **sizes)
    characters = CharacterTokenizer("".join(map(chr, range(32, 32 + gpt_step.VOCABULARY))))
    return file.build(config, {}, {"characters.json": characters.to_bytes()})


def test_a_whole_training_is_nanogpts(monkeypatch):
    """Warm-up, cosine, clipping, AdamW and where it decays: every loss, and the weights at last."""
    layers, heads, width, context, steps = 2, 2, 16, 8, 40
    monkeypatch.setattr(torch_nanogpt, "STEPS", steps)
    monkeypatch.setattr(torch_nanogpt, "WARMUP", steps // 10)
    torch.manual_seed(0)
    model = torch_gpt.GPT(gpt_step.VOCABULARY, width, layers, heads, context, dropout=0.0)
    params = jax.tree.map(np.array, gpt_step.as_jax(model, heads, lambda leaf: leaf.detach()))
    # Of few tokens and of all in turn: steps with gradients that are clipped, and that are not.
    most = np.resize([7, gpt_step.VOCABULARY], (steps, 1, 1))
    tokens = np.random.default_rng(0).integers(most, size=(steps, 8, context + 1), dtype=np.int32)
    theirs = torch_nanogpt.train(model, lambda step: tokens[step])

    experiment = nanogpt(layers=layers, heads=heads, width=width, context=context, steps=steps)
    (update,) = experiment.updates

    @jax.jit
    def train(params, tokens):
        def step(carry, tokens):
            params, state = carry
            seen = Context({"tokens": tokens}, jax.random.key(0), 0, {}, params)
            loss, gradients = jax.value_and_grad(lambda p: update.loss(p, seen).value)(params)
            moves, state = update.optimizer.update(gradients, state, params)
            norm = optax.tree.norm(gradients)
            return (optax.apply_updates(params, moves), state), (loss, norm)

        return jax.lax.scan(step, (params, update.optimizer.init(params)), tokens)

    (ours, _), (losses, norms) = train(params, tokens)
    assert norms.min() < 1 < norms.max()  # some steps are clipped, some aren't
    np.testing.assert_allclose(losses, theirs, rtol=0, atol=1e-5)
    after = gpt_step.as_jax(model, heads, lambda leaf: leaf.detach())
    for mine, other, before in zip(*map(jax.tree.leaves, (ours, after, params)), strict=True):
        # Decay alone moves the largest weights by 1e-4.
        np.testing.assert_allclose(mine, other, rtol=0, atol=3e-6)
        assert np.abs(mine - before).max() > 5e-3


def test_training_begins_where_nanogpts_does():
    """Every kernel has nanoGPT's deviation: 0.02, and 0.02 / √(2·layers) towards the residual."""
    experiment = nanogpt(layers=2, width=64)
    key, row = jax.random.key(0), {"tokens": np.zeros((1, 65), np.int32)}
    params = sharding.unbox(jax.jit(experiment.init)(key, row)[0])
    layers = params["blocks"]
    for part, expected in (
        (params["tokens"], 0.02),
        (params["positions"], 0.02),
        (layers["attention"]["query"], 0.02),
        (layers["attention"]["key"], 0.02),
        (layers["attention"]["value"], 0.02),
        (layers["attention"]["out"], 0.01),
        (layers["mlp"]["up"], 0.02),
        (layers["mlp"]["down"], 0.01),
    ):
        (leaf,) = jax.tree.leaves(part)
        assert np.std(leaf) == pytest.approx(expected, rel=0.05)

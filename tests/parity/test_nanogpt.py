"""Our GPT and nanoGPT's: the same loss and gradients from the same weights."""

import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import gpt_step  # noqa: E402
import torch_gpt  # noqa: E402


def test_loss_and_gradients_are_nanogpts():
    layers, heads, width, context, batch = 2, 4, 32, 16, 3
    torch.manual_seed(0)
    model = torch_gpt.GPT(gpt_step.VOCABULARY, width, layers, heads, context, dropout=0.0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)  # far from where every model looks alike
    tokens = np.random.default_rng(0).integers(gpt_step.VOCABULARY, size=(batch, context + 1))
    params = gpt_step.as_jax(model, heads, lambda parameter: parameter.detach())
    loss = gpt_step.next_token_loss(
        gpt_step.network_logits(gpt_step.network(layers, heads, width, context))
    )
    gpt_step.agree(loss, params, model, heads, tokens)

"""Our mixture of experts and Hugging Face's Mixtral: the same output, gradients and loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.nn import routing
from jaxgen.nn.mixture_of_experts import MixtureOfExperts

torch = pytest.importorskip("torch")
mixtral = pytest.importorskip("transformers.models.mixtral.modeling_mixtral")

EXPERTS, CHOSEN, WIDTH, HIDDEN = 8, 2, 16, 24


def as_jax(block, leaf):
    """Their weights, or gradients, as our tree; theirs are (out, in) and gate above up."""
    gate, up = (
        leaf(block.experts.gate_up_proj)
        .numpy()
        .transpose(0, 2, 1)
        .reshape(EXPERTS, WIDTH, 2, HIDDEN)
        .transpose(2, 0, 1, 3)
    )
    return {
        "router": {"kernel": leaf(block.gate.weight).numpy().T},
        "gate": {"kernel": gate},
        "up": {"kernel": up},
        "down": {"kernel": leaf(block.experts.down_proj).numpy().transpose(0, 2, 1)},
    }


def test_output_gradients_and_balance_are_mixtrals():
    config = mixtral.MixtralConfig(
        hidden_size=WIDTH,
        intermediate_size=HIDDEN,
        num_local_experts=EXPERTS,
        num_experts_per_tok=CHOSEN,
        experts_implementation="eager",
    )
    torch.manual_seed(0)
    block = mixtral.MixtralSparseMoeBlock(config)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    rng = np.random.default_rng(0)
    x, slope = rng.normal(size=(2, 3, 40, WIDTH)).astype(np.float32)
    seen = torch.from_numpy(x).requires_grad_()
    theirs = block(seen)
    theirs.backward(torch.from_numpy(slope))

    module = MixtureOfExperts(EXPERTS, CHOSEN, HIDDEN)
    params = as_jax(block, lambda parameter: parameter.detach())

    @jax.jit
    def ours(params, x, slope):
        out, back = jax.vjp(lambda params, x: module.apply({"params": params}, x), params, x)
        return out, back(slope)

    out, (into_params, into_x) = ours(params, x, slope)
    np.testing.assert_allclose(out, theirs.detach(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(into_x, seen.grad, rtol=1e-5, atol=1e-5)
    gradients = as_jax(block, lambda parameter: parameter.grad)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), into_params, gradients
    )


@pytest.mark.parametrize("padded", [False, True])
def test_balance_loss_is_transformers_by_the_number_chosen(padded):
    logits = np.random.default_rng(0).normal(size=(3, 40, EXPERTS)).astype(np.float32)
    real = np.arange(40)[None, :] < np.array([[40], [25], [7]]) if padded else None
    theirs = mixtral.load_balancing_loss_func(
        (torch.from_numpy(logits).reshape(-1, EXPERTS),),
        EXPERTS,
        CHOSEN,
        None if real is None else torch.from_numpy(real),
    )
    taken, _ = routing.top_experts(jnp.asarray(logits), CHOSEN, True)
    ours = routing.load_balance_loss(
        jnp.asarray(logits), taken, None if real is None else jnp.asarray(real)
    )
    np.testing.assert_allclose(CHOSEN * ours, theirs, rtol=1e-5)

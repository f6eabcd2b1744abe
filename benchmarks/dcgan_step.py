"""A DCGAN's training step on 28×28 digits, side by side with the same layers in PyTorch.

    python benchmarks/dcgan_step.py                    # 2 threads each, about two minutes
    python benchmarks/dcgan_step.py --threads 1
    python benchmarks/dcgan_step.py --usual            # PyTorch's step as its own example has it
    python benchmarks/dcgan_step.py --compile          # PyTorch under torch.compile; GPU if any

Both get the same weights, pictures and latents; first, both losses and all gradients are checked to
agree to 1e-4 of their size. A step is the discriminator's update on real and made pictures, the
generator's update, Adam for both, in float32, batch 64, on new latents for each update, as
Goodfellow et al. 2014 write it down (algorithm 1). Both sides do the same work: PyTorch's
discriminator is told that it needs no gradients in the generator's update. `--usual` is PyTorch's
own example instead, which makes its pictures once for both updates, and works out the
discriminator's gradients in the generator's update only to throw them away: one pass of the
generator less, the gradient of the discriminator's kernels more. The widths are the published ones
(100 latents, 64 and 128 channels) and narrow ones (16 and 32). Beside the clock's ratio stands that
of the processors' time, which other work on the machine moves less.
"""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import optax
import side_by_side
import torch
from torch import nn

from jaxgen.experiment import Update
from jaxgen.families.gan.dcgan import DCGANDiscriminator, DCGANGenerator
from jaxgen.families.gan.game import Game
from jaxgen.nn.adversary import NON_SATURATING
from jaxgen.training.state import TrainState
from jaxgen.training.step import make_train_step

ROWS, RATE = 64, 2e-4
entropy = nn.functional.binary_cross_entropy_with_logits


def peers(latent, low, high, side=28):
    """The paper's pair, as PyTorch's own example writes it, without the last sigmoid."""
    leaky = nn.LeakyReLU(0.2)
    generator = nn.Sequential(
        nn.ConvTranspose2d(latent, high, side // 4, bias=False), nn.BatchNorm2d(high), nn.ReLU(),
        nn.ConvTranspose2d(high, low, 4, 2, 1, bias=False), nn.BatchNorm2d(low), nn.ReLU(),
        nn.ConvTranspose2d(low, 1, 4, 2, 1), nn.Tanh(),
    )  # fmt: skip
    discriminator = nn.Sequential(
        nn.Conv2d(1, low, 4, 2, 1), leaky,
        nn.Conv2d(low, high, 4, 2, 1, bias=False), nn.BatchNorm2d(high), leaky,
        nn.Conv2d(high, 1, side // 4),
    )  # fmt: skip
    for layer in (*generator, *discriminator):
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(layer.weight, 0, 0.02)
    return generator, discriminator


def as_jax(generator, discriminator, leaf):
    """PyTorch's weights (or gradients, as `leaf` takes them) as jaxgen's tree, copied."""

    def array(parameter):
        return leaf(parameter).cpu().numpy().copy()

    def convolution(layer):
        axes = (2, 3, 0, 1) if isinstance(layer, nn.ConvTranspose2d) else (2, 3, 1, 0)
        kernel = {"kernel": array(layer.weight).transpose(axes)}
        return kernel if layer.bias is None else kernel | {"bias": array(layer.bias)}

    def norm(layer):
        return {"scale": array(layer.weight), "bias": array(layer.bias)}

    projection = convolution(generator[0])["kernel"].transpose(2, 0, 1, 3)
    tree = {
        "generator": {
            "projection": {"kernel": projection},
            "norm_0": norm(generator[1]),
            "convolution_1": convolution(generator[3]),
            "norm_1": norm(generator[4]),
            "picture": convolution(generator[6]),
        },
        "discriminator": {
            "convolution_0": convolution(discriminator[0]),
            "convolution_1": convolution(discriminator[2]),
            "norm_1": norm(discriminator[3]),
            "logit": convolution(discriminator[5]),
        },
    }
    return jax.tree.map(jnp.asarray, tree)


def agree(game, params, variables, peer, real):
    """Stops unless both losses and all gradients are the same to 1e-4 of their size."""
    peer = copy.deepcopy(peer)
    generator, discriminator = peer
    latent = jax.random.normal(jax.random.key(1), (ROWS, game.latent))
    ones, zeros = torch.ones(ROWS), torch.zeros(ROWS)

    def judged(params, pictures):
        given = {"params": params["discriminator"], **variables["discriminator"]}
        return game.discriminator.apply(given, pictures, train=True, mutable=["batch_stats"])[0]

    def losses(params):
        given = {"params": params["generator"], **variables["generator"]}
        made, _ = game.generator.apply(given, latent, train=True, mutable=["batch_stats"])
        of_real, of_made = judged(params, real), judged(params, made)
        return game.adversary.discriminator(of_real, of_made), game.adversary.generator(
            of_real, of_made
        )

    made = generator(torch.tensor(np.asarray(latent))[:, :, None, None])
    of_real, of_made = (
        discriminator(pictures).flatten()
        for pictures in (torch.tensor(real.transpose(0, 3, 1, 2)), made)
    )
    theirs = (
        entropy(of_real, ones) + entropy(of_made, zeros),
        entropy(of_made, ones),
    )
    ours = jax.jit(losses)(params)
    slopes = jax.jit(jax.jacrev(losses))(params)
    for index in range(2):
        value = theirs[index].item()
        assert abs(float(ours[index]) - value) < 1e-4 * value, (ours[index], value)
        for network in peer:
            network.zero_grad()
        # The generator's loss doesn't look at real pictures, so some leaves have no slope there.
        theirs[index].backward(retain_graph=True)
        expected = as_jax(*peer, lambda parameter: parameter.grad)
        for (path, a), b in zip(
            jax.tree.leaves_with_path(slopes[index]), jax.tree.leaves(expected), strict=True
        ):
            error = float(jnp.abs(a - b).max() / jnp.abs(b).max())
            assert error < 1e-4, f"{jax.tree_util.keystr(path)}: gradients differ by {error:.1e}"


def our_steps(game, params, variables, real):
    """A function of a number of steps."""
    adam = optax.adam(RATE, b1=0.5)
    updates = [
        Update("discriminator", game.discriminator_loss, adam, moves="discriminator"),
        Update("generator", game.generator_loss, adam, moves="generator"),
    ]
    first = {name: adam.init({name: params[name]}) for name in params}
    state = TrainState(jnp.int32(0), params, variables, first, {})
    step = jax.jit(make_train_step(updates, jax.random.key(0)), donate_argnums=0)
    batch = {"image": real[None]}

    def run(count):
        nonlocal state
        for _ in range(count):
            state, _, finite = step(state, batch)
        finite.block_until_ready()

    return run


def their_steps(latent, peer, real, device, compiled, usual):
    """The same for PyTorch, in the layout that is faster for it; `usual`: as its example does."""
    generator, discriminator = (network.to(device) for network in peer)
    adams = [
        torch.optim.Adam(network.parameters(), lr=RATE, betas=(0.5, 0.999), fused=True)
        for network in (generator, discriminator)
    ]
    if compiled:
        generator, discriminator = torch.compile(generator), torch.compile(discriminator)
    pictures = torch.tensor(real.transpose(0, 3, 1, 2), device=device)
    ones, zeros = torch.ones(ROWS, device=device), torch.zeros(ROWS, device=device)

    def make():
        return generator(torch.randn(ROWS, latent, 1, 1, device=device))

    def run(count):
        for _ in range(count):
            if usual:
                made = make()
            else:
                with torch.no_grad():
                    made = make()
                peer[1].requires_grad_(True)
            adams[1].zero_grad()
            loss = entropy(discriminator(pictures).flatten(), ones)
            loss = loss + entropy(discriminator(made.detach()).flatten(), zeros)
            loss.backward()
            adams[1].step()
            adams[0].zero_grad()
            if not usual:
                peer[1].requires_grad_(False)
                made = make()
            entropy(discriminator(made).flatten(), ones).backward()
            adams[0].step()
        if device == "cuda":
            torch.cuda.synchronize()

    return run


def main():
    parser = side_by_side.arguments(__doc__)
    parser.add_argument("--compile", action="store_true", help="PyTorch under torch.compile")
    parser.add_argument("--usual", action="store_true", help="PyTorch's step as in its example")
    parser.add_argument("--steps", type=int, default=20, help="in each turn")
    chosen = parser.parse_args()
    side_by_side.share_threads(chosen.threads)
    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    real = np.random.default_rng(0).uniform(-1, 1, (ROWS, 28, 28, 1)).astype(np.float32)
    for latent, low, high in ((64, 16, 32), (100, 64, 128)):
        torch.manual_seed(0)
        peer = peers(latent, low, high)
        game = Game(
            DCGANGenerator((28, 28, 1), (high, low)),
            DCGANDiscriminator((low, high)),
            NON_SATURATING,
            latent,
        )
        params = as_jax(*peer, lambda parameter: parameter.detach())
        _, variables = game.init(jax.random.key(0), {"image": real})
        agree(game, params, variables, peer, real)
        side_by_side.compare(
            f"latents {latent}, channels {low} and {high}, on the {device}",
            our_steps(game, params, variables, real),
            their_steps(latent, peer, real, device, chosen.compile, chosen.usual),
            turns=chosen.turns,
            steps=chosen.steps,
            warm_up=3,
        )


if __name__ == "__main__":
    main()

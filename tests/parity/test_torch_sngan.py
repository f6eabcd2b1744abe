"""Our SNGAN networks and the same layers in PyTorch: the same pictures, logits and slopes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.families.gan.sngan import SNGANDiscriminator, SNGANGenerator
from jaxgen.parallel.sharding import unbox

torch = pytest.importorskip("torch")
F = torch.nn.functional

PICTURE = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)


class Block(torch.nn.Module):
    """A block of the discriminator whose ReLU may write over what the shortcut reads."""

    def __init__(self, arriving, features, first, halves, inplace):
        super().__init__()
        normal = torch.nn.utils.spectral_norm
        inner = features if first else arriving
        self.convolution_in = normal(torch.nn.Conv2d(arriving, inner, 3, 1, 1))
        self.convolution_out = normal(torch.nn.Conv2d(inner, features, 3, 1, 1))
        if first or halves or arriving != features:
            self.shortcut = normal(torch.nn.Conv2d(arriving, features, 1))
        self.first, self.halves, self.inplace = first, halves, inplace

    def forward(self, x):
        hidden = x if self.first else F.relu(x, inplace=self.inplace)
        hidden = self.convolution_out(F.relu(self.convolution_in(hidden)))
        if hasattr(self, "shortcut"):
            x = self.shortcut(x)
        if self.halves:
            hidden, x = F.avg_pool2d(hidden, 2), F.avg_pool2d(x, 2)
        return hidden + x


class Discriminator(torch.nn.Module):
    def __init__(self, inplace):
        super().__init__()
        self.block_0 = Block(3, 4, True, True, inplace)
        self.block_1 = Block(4, 6, False, True, inplace)
        self.block_2 = Block(6, 6, False, False, inplace)
        self.head = torch.nn.utils.spectral_norm(torch.nn.Linear(6, 1))

    def forward(self, x):
        for block in (self.block_0, self.block_1, self.block_2):
            x = block(x)
        return self.head(F.relu(x).sum((2, 3)))[:, 0]


def variables(theirs):
    """Its parameters and singular vectors, under our names and in our order of axes."""
    params, spectral = {}, {}
    for name, module in theirs.named_modules():
        if not hasattr(module, "weight_u"):
            continue
        path = "head.logit" if name == "head" else name
        kernel = module.weight_orig.detach().numpy()
        shape = kernel.shape
        inward = module.weight_v.numpy()
        if kernel.ndim == 4:
            kernel = kernel.transpose(2, 3, 1, 0)
            inward = inward.reshape(shape[1:]).transpose(1, 2, 0).reshape(-1)
        else:
            kernel = kernel.T
        place(params, path, {"kernel": kernel, "bias": module.bias.detach().numpy()})
        place(spectral, path, {"norm": {"inward": inward, "outward": module.weight_u.numpy()}})
    return jax.tree.map(lambda leaf: jnp.array(leaf), {"params": params, "spectral": spectral})


def place(tree, path, leaf):
    *above, last = path.split(".")
    for name in above:
        tree = tree.setdefault(name, {})
    tree[last] = leaf


@pytest.mark.filterwarnings("ignore:.*spectral_norm.*:FutureWarning")
@pytest.mark.parametrize("inplace", [False, True])
def test_the_discriminator_judges_and_learns_as_pytorchs(inplace):
    torch.manual_seed(0)
    theirs = Discriminator(inplace)
    ours = SNGANDiscriminator(widths=(4, 6, 6), rectified_shortcuts=inplace)
    given = variables(theirs)

    def judged(params):
        said, after = ours.apply(
            {"params": params, "spectral": given["spectral"]},
            jnp.asarray(PICTURE),
            train=True,
            mutable=["spectral"],
        )
        return said.logits.sum(), (said.logits, after)

    (_, (logits, after)), slope = jax.jit(jax.value_and_grad(judged, has_aux=True))(given["params"])
    expected = theirs(torch.tensor(PICTURE).permute(0, 3, 1, 2))
    expected.sum().backward()
    np.testing.assert_allclose(logits, expected.detach(), rtol=1e-4, atol=1e-5)
    moved = variables(theirs)["spectral"]  # one iteration of each
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one, other, atol=1e-5),
        after["spectral"],
        moved,
    )
    for name in ("convolution_in", "shortcut"):
        of_theirs = getattr(theirs.block_1, name).weight_orig.grad.numpy().transpose(2, 3, 1, 0)
        np.testing.assert_allclose(
            slope["block_1"][name]["kernel"], of_theirs, rtol=1e-3, atol=1e-4
        )


def test_the_generator_makes_what_pytorch_makes():
    ours = SNGANGenerator((4, 6), start=3)
    latent = jax.random.normal(jax.random.key(1), (5, 2))
    shapes = jax.eval_shape(ours.init, jax.random.key(0), latent)
    generator = np.random.default_rng(2)
    leaves, tree = jax.tree.flatten(shapes)
    filled = jax.tree.unflatten(
        tree, [generator.uniform(0.1, 1, leaf.shape).astype(np.float32) - 0.3 for leaf in leaves]
    )
    filled = jax.tree.map(jnp.asarray, unbox(filled))
    made, _ = jax.jit(lambda given: ours.apply(given, latent, train=True, mutable=["batch_stats"]))(
        filled
    )
    params = jax.tree.map(lambda leaf: torch.tensor(np.asarray(leaf)), filled["params"])

    def norm(x, at):
        return F.relu(F.batch_norm(x, None, None, at["scale"], at["bias"], training=True))

    def convolution(x, at):
        kernel = at["kernel"].permute(3, 2, 0, 1)
        return F.conv2d(x, kernel, at["bias"], padding=kernel.shape[-1] // 2)

    def twice(x):
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)

    x = torch.tensor(np.asarray(latent)) @ params["linear"]["kernel"] + params["linear"]["bias"]
    x = x.reshape(5, 3, 3, 4).permute(0, 3, 1, 2)
    at = params["block_0"]
    hidden = convolution(twice(norm(x, at["norm_in"])), at["convolution_in"])
    hidden = convolution(norm(hidden, at["norm_out"]), at["convolution_out"])
    x = hidden + convolution(twice(x), at["shortcut"])
    expected = torch.tanh(convolution(norm(x, params["norm"]), params["convolution"]))
    np.testing.assert_allclose(made, expected.permute(0, 2, 3, 1), atol=1e-4)

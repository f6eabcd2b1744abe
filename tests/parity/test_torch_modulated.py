"""Our modulated convolution and a grouped one in PyTorch, with a kernel for each picture."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.nn.modulated_convolution import modulated_convolution

torch = pytest.importorskip("torch")


def grouped(picture, kernel, style, double):
    """Kernels (made, channels, 3, 3) scaled and normalized for each row, all rows as groups."""
    rows, channels, height, width = picture.shape
    made = kernel.shape[0]
    own = kernel[None] * style[:, None, :, None, None]
    own = own * (own.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
    flat = picture.reshape(1, rows * channels, height, width)
    if not double:
        own = own.reshape(rows * made, channels, 3, 3)
        return torch.nn.functional.conv2d(flat, own, padding=1, groups=rows).unflatten(
            1, (rows, made)
        )[0]
    # A transposed convolution turns its kernel around.
    own = own.flip(3, 4).transpose(1, 2).reshape(rows * channels, made, 3, 3)
    spread = torch.nn.functional.conv_transpose2d(flat, own, stride=2, groups=rows)
    taps = torch.outer(torch.tensor([1.0, 3, 3, 1]), torch.tensor([1.0, 3, 3, 1])) / 16
    spread = spread.reshape(rows * made, 1, *spread.shape[2:])
    smooth = torch.nn.functional.conv2d(spread, taps[None, None], padding=1)
    return smooth.reshape(rows, made, *smooth.shape[2:])


@pytest.mark.parametrize("double", [False, True])
def test_pictures_and_slopes_are_those_of_grouped_convolutions(double):
    rng = np.random.default_rng(0)
    shapes = (3, 6, 8, 4), (3, 3, 4, 5), (3, 4)
    inputs = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
    theirs = [torch.tensor(array, requires_grad=True) for array in inputs]
    picture, kernel, style = theirs
    expected = grouped(picture.permute(0, 3, 1, 2), kernel.permute(3, 2, 0, 1), style, double)
    weights = rng.normal(size=expected.shape).astype(np.float32)
    (expected * torch.tensor(weights)).sum().backward()

    def ours(*inputs):
        made = modulated_convolution(*inputs, double=double)
        return jnp.sum(jnp.asarray(weights.transpose(0, 2, 3, 1)) * made), made

    slopes, found = jax.jit(jax.grad(ours, (0, 1, 2), has_aux=True))(*map(jnp.asarray, inputs))
    np.testing.assert_allclose(found, expected.detach().permute(0, 2, 3, 1), atol=1e-5)
    for slope, tensor in zip(slopes, theirs, strict=True):
        np.testing.assert_allclose(slope, tensor.grad, atol=1e-4)

"""Hugging Face's models of random weights, and both ways between them and ours."""

import logging
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.interop import hugging_face

torch = pytest.importorskip("torch")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    transformers = pytest.importorskip("transformers")
transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
logging.getLogger("transformers").setLevel(logging.ERROR)


def randomized(model, seed=0):
    """The model with every parameter random, so that none can be mistaken for another."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            around = 1.0 if "norm" in name.lower() or ".ln_" in name else 0.0
            if name.endswith("bias"):
                around = 0.0
            deviation = 0.3 if parameter.ndim < 2 else 1.2 * parameter.shape[-1] ** -0.5
            parameter.normal_(around, deviation)
    return model.eval()


def random_params(network, seed=0, deviation=0.2):
    """The same for ours."""
    shapes = hugging_face.abstract_params(network, None, jnp.float32)
    generator = np.random.default_rng(seed)

    def leaf(path, shape):
        keys = [key.key for key in path]
        small = keys[-1] in ("bias", "scale", "scores_bias")
        values = generator.normal(
            float(keys[-1] == "scale"), 0.3 if small else deviation, shape.shape
        )
        return jnp.asarray(values, jnp.float32)

    return jax.tree_util.tree_map_with_path(leaf, shapes)


def opened(kind, directory, unused=(), **settings):
    """Their model of a directory, after a check that nothing was missing or left over.

    unused: tensors that a model of this kind has no use for.
    """
    model, report = kind.from_pretrained(directory, output_loading_info=True, **settings)
    assert not report["missing_keys"] and not report["mismatched_keys"]
    assert set(report["unexpected_keys"]) == set(unused)
    return model.eval()


def left_padded(vocabulary, rows=3, time=12):
    """Tokens, a mask of those that are real, and their places: rows of unequal length."""
    generator = np.random.default_rng(1)
    tokens = generator.integers(vocabulary, size=(rows, time))
    starts = np.arange(rows)[:, None] * 3
    mask = (np.arange(time)[None, :] >= starts).astype(np.int64)
    positions = np.maximum(mask.cumsum(1) - 1, 0)
    return tokens, mask, positions


def assert_equal(ours, theirs, mask):
    """Where the mask is 1, within 1e-4, of numbers that aren't all small."""
    there = mask.astype(bool)
    ours, theirs = np.asarray(ours)[there], theirs.detach().numpy()[there]
    assert theirs.std() > 0.1
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)

import jax
import numpy as np
import pytest

from jaxgen.errors import UserError
from jaxgen.families.vae.autoencoder_kl import AutoencoderKL
from jaxgen.interop.autoencoder_kl import from_diffusers, network_of, to_diffusers

SETTINGS = {
    "in_channels": 3,
    "block_out_channels": [4, 8],
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 2,
    "scaling_factor": 0.13025,
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
}
NETWORK = network_of(SETTINGS)


@pytest.fixture(scope="module")
def params():
    shapes = jax.eval_shape(NETWORK.init, jax.random.key(0), np.zeros((1, 4, 4, 3), np.float32))
    generator = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: generator.normal(size=leaf.shape).astype(np.float32),
        jax.tree.map(
            lambda box: box.value, shapes["params"], is_leaf=lambda x: hasattr(x, "names")
        ),
    )


def test_out_and_in_again(params):
    weights = to_diffusers(params, NETWORK)
    # By diffusers' layout: the lowest resolution comes first on the way up.
    assert weights["decoder.up_blocks.0.upsamplers.0.conv.weight"].shape == (8, 8, 3, 3)
    assert weights["encoder.down_blocks.1.resnets.0.conv_shortcut.weight"].shape == (8, 4, 1, 1)
    assert weights["encoder.mid_block.attentions.0.to_q.weight"].shape == (8, 8)
    assert weights["quant_conv.weight"].shape == (8, 8, 1, 1)
    back = from_diffusers(weights, NETWORK)
    jax.tree.map(np.testing.assert_array_equal, back, params)


def test_names_of_older_files_are_known(params):
    weights = to_diffusers(params, NETWORK)
    older = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for name in list(weights):
        for today, former in older.items():
            if f".{today}." in name:
                weights[name.replace(f".{today}.", f".{former}.")] = weights.pop(name)
    assert any(".proj_attn." in name for name in weights)
    jax.tree.map(np.testing.assert_array_equal, from_diffusers(weights, NETWORK), params)


def test_other_weights_are_refused(params):
    weights = to_diffusers(params, NETWORK)
    with pytest.raises(UserError, match=r"no place for extra\.weight"):
        from_diffusers(weights | {"extra.weight": np.zeros(3)}, NETWORK)
    with pytest.raises(UserError, match=r"have no decoder\.conv_in\.bias"):
        from_diffusers({n: a for n, a in weights.items() if n != "decoder.conv_in.bias"}, NETWORK)
    with pytest.raises(UserError, match="doesn't fit"):
        from_diffusers(weights | {"quant_conv.bias": np.zeros(3)}, NETWORK)
    with pytest.raises(UserError, match="another network"):
        to_diffusers(params, AutoencoderKL(3, (4, 4), 1, groups=2))


def test_settings_become_a_network():
    assert NETWORK.widths == (4, 8) and NETWORK.scaling_factor == 0.13025 and NETWORK.shift == 0.0
    with pytest.raises(UserError, match="use_quant_conv"):
        network_of(SETTINGS | {"use_quant_conv": False})
    with pytest.raises(UserError, match="plain residual blocks"):
        network_of(SETTINGS | {"down_block_types": ["AttnDownEncoderBlock2D"] * 2})

"""AutoencoderKL's weights under the names of Hugging Face's diffusers, in and out.

No PyTorch here: weights are numpy arrays by name, as `safetensors.numpy.load_file` gives them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import linen, traverse_util

from jaxgen.errors import UserError
from jaxgen.experiment import Params, Path
from jaxgen.families.vae.autoencoder_kl import AutoencoderKL

Weights = Mapping[str, np.ndarray]

# What the attention's layers were called before diffusers 0.18; files of that time still are.
_FORMER_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}

# Ours -> theirs, by the place of a part in the tree.
_LINEAR = {"before_bottleneck": "quant_conv", "after_bottleneck": "post_quant_conv"}
_PARTS = {
    "convolution_in": "conv_in",
    "norm_out": "conv_norm_out",
    "convolution_out": "conv_out",
    "middle_0": "mid_block.resnets.0",
    "middle_1": "mid_block.resnets.1",
    "middle_attention": "mid_block.attentions.0",
}
_LAYERS = {
    "norm_in": "norm1",
    "convolution_in": "conv1",
    "norm_out": "norm2",
    "convolution_out": "conv2",
    "shortcut": "conv_shortcut",
    "norm": "group_norm",
    "query": "to_q",
    "key": "to_k",
    "value": "to_v",
    "output": "to_out.0",
}


def network_of(settings: Mapping[str, Any], dtype: Any = np.float32) -> AutoencoderKL:
    """The network that a diffusers `config.json` describes.

    Raises:
        UserError: where it asks for parts that ours doesn't have.
    """
    for part in ("use_quant_conv", "use_post_quant_conv", "mid_block_add_attention"):
        if not settings.get(part, True):
            raise UserError(f"This autoencoder has no {part}, which ours always has.")
    blocks = [*settings["down_block_types"], *settings["up_block_types"]]
    if not set(blocks) <= {"DownEncoderBlock2D", "UpDecoderBlock2D"}:
        raise UserError(f"This autoencoder is built of {blocks}; ours is of plain residual blocks.")
    return AutoencoderKL(
        image_channels=settings["in_channels"],
        widths=tuple(settings["block_out_channels"]),
        blocks=settings["layers_per_block"],
        latent_channels=settings["latent_channels"],
        groups=settings["norm_num_groups"],
        scaling_factor=settings.get("scaling_factor", 0.18215),
        shift=settings.get("shift_factor") or 0.0,
        dtype=dtype,
    )


def from_diffusers(weights: Weights, network: AutoencoderKL) -> Params:
    """Diffusers' weights as the parameters of `network`, float32 on the host.

    weights: kernels (out, in, height, width), linear maps (out, in).

    Raises:
        UserError: for weights that are missing, that don't fit, or that the network has no place
            for.
    """
    given = {_today(name): np.asarray(array, np.float32) for name, array in weights.items()}
    flat: dict[Path, np.ndarray] = {}
    for path, shape in _shapes(network).items():
        name = _their_name(path, len(network.widths))
        if name not in given:
            raise UserError(f"The weights have no {name}: they are of another autoencoder.")
        array = given.pop(name)
        if array.size != np.prod(shape):
            raise UserError(f"{name} is {array.shape}, which doesn't fit {'/'.join(path)} {shape}.")
        if array.ndim > 1:
            array = np.moveaxis(array, (0, 1), (-1, -2))
        flat[path] = array.reshape(shape)
    if given:
        names = ", ".join(sorted(given)[:3]) + (", ..." if len(given) > 3 else "")
        raise UserError(f"The network has no place for {names}: its blocks or widths are others.")
    return traverse_util.unflatten_dict(flat)


def to_diffusers(params: Params, network: AutoencoderKL) -> dict[str, np.ndarray]:
    """The parameters of `network` as diffusers names and lays out its own: the way back.

    Raises:
        UserError: for parameters that are of another network.
    """
    flat = {path: np.asarray(leaf) for path, leaf in traverse_util.flatten_dict(params).items()}
    if {path: leaf.shape for path, leaf in flat.items()} != _shapes(network):
        raise UserError("These parameters are of another network: blocks or widths are others.")
    weights = {}
    for path, array in flat.items():
        attention = "middle_attention" in path
        if path[-1] == "bias" or array.ndim == 1:
            array = array.reshape(-1)
        elif array.ndim < 4:  # a linear map: (out, in), or a 1×1 convolution outside the attention
            outputs = array.shape[-1]
            array = array.reshape(-1, outputs).T.reshape((outputs, -1) + (1, 1) * (not attention))
        else:
            array = np.moveaxis(array, (-1, -2), (0, 1))
        weights[_their_name(path, len(network.widths))] = array
    return weights


def _shapes(network: AutoencoderKL) -> dict[Path, tuple[int, ...]]:
    side = 2 ** (len(network.widths) - 1)
    picture = jax.ShapeDtypeStruct((1, side, side, network.image_channels), np.float32)
    boxed = jax.eval_shape(network.init, jax.random.key(0), picture)["params"]
    flat = traverse_util.flatten_dict(linen.unbox(boxed))
    return {path: leaf.shape for path, leaf in flat.items()}


def _their_name(path: Path, levels: int) -> str:
    kind = "bias" if path[-1] == "bias" else "weight"
    if path[0] in _LINEAR:
        return f"{_LINEAR[path[0]]}.{kind}"
    half, part, *layer = path[:-1]
    name = _PARTS.get(part) or _level_name(part, levels)
    return ".".join([half, name, *(_LAYERS[each] for each in layer), kind])


def _level_name(part: str, levels: int) -> str:
    way, level, *index = part.split("_")
    if way.startswith("up"):
        name = f"up_blocks.{levels - 1 - int(level)}"  # they count from the lowest resolution
    else:
        name = f"down_blocks.{level}"
    return f"{name}.resnets.{index[0]}" if index else f"{name}.{way}rs.0.conv"


def _today(name: str) -> str:
    layer, _, kind = name.rpartition(".")
    before, _, last = layer.rpartition(".")
    return f"{before}.{_FORMER_NAMES[last]}.{kind}" if last in _FORMER_NAMES else name

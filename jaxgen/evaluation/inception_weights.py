"""The weights of the Fréchet Inception distance's network, from a file that the user has.

They are TensorFlow's of 2015-12-05, as PyTorch's ports of the distance distribute them; two
releases carry the same bytes:

    https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth
    https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import traverse_util

from jaxgen.errors import UserError
from jaxgen.evaluation.inception import SIDE, InceptionV3
from jaxgen.evaluation.tensor_files import arrays_in
from jaxgen.experiment import Params
from jaxgen.parallel.sharding import unbox

URL = (
    "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
    "pt_inception-2015-12-05-6726825d.pth"
)
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"

# The file's words for what ends our parameters' paths; all before that is the same in both, and
# torchvision's Inception-v3 uses the file's words too.
NAMES = {
    "convolution/kernel": "conv.weight",
    "norm/scale": "bn.weight",
    "norm/bias": "bn.bias",
    "norm/mean": "bn.running_mean",
    "norm/variance": "bn.running_var",
    "logits/kernel": "fc.weight",
    "logits/bias": "fc.bias",
}
# From our axes to PyTorch's: (height, width, in, out) and (in, out) put the outputs last.
TO_TORCH = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}
FROM_TORCH = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}


def read_weights(path: epath.PathLike, sha256: str | None = SHA256) -> Params:
    """The parameters of `InceptionV3` from a file; nothing is ever fetched.

    path: PyTorch's file, or the same names in `.safetensors` or `.npz`.
    sha256: what the file's bytes must hash to, by default those of the weights that define the
        distance. None takes any file: a distance by it is another one.

    Raises:
        UserError: for a missing file, another checksum, a file that isn't one of tensors, and for
            tensors that are missing, too many, or of another shape.
    """
    path = epath.Path(path)
    if not path.is_file():
        raise UserError(
            f"There are no Inception weights at {path}: download {URL} (SHA-256 {SHA256}) and put "
            "it there, or pass the path where it is."
        )
    data = path.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if sha256 is not None and found != sha256:
        raise UserError(
            f"{path} has the SHA-256 {found}, not {sha256}: fetch it again from {URL}, or pass "
            "sha256=None to score by weights of your own, which makes it another distance."
        )
    return parameters(arrays_in(data, path.name), path.name)


def parameters(tensors: Mapping[str, np.ndarray], name: str = "the mapping") -> Params:
    """The parameters of `InceptionV3`, float32, from tensors under PyTorch's names and axes.

    name: of the file, for what is said of it. Counters of batches are passed over. Raises
    `UserError` for the first tensor that is missing, of another shape, or not the network's.
    """
    left = {key for key in tensors if not key.endswith(".num_batches_tracked")}
    made = {}
    for path, ours in parameter_shapes().items():
        key = torch_name(path)
        shape = tuple(ours[axis] for axis in TO_TORCH[len(ours)])
        if key not in tensors:
            raise UserError(f"{name} lacks {key} {shape}: it is not the distance's Inception-v3.")
        if tensors[key].shape != shape:
            raise UserError(
                f"{name} has {key} in the shape {tensors[key].shape}, and the distance's "
                f"Inception-v3 has {shape} there: these are another network's weights."
            )
        turned = np.transpose(tensors[key], FROM_TORCH[len(shape)])
        made[path] = jnp.asarray(turned, jnp.float32)
        left.discard(key)
    if left:
        raise UserError(
            f"{name} has {min(left)}, which the distance's Inception-v3 has not: these are another "
            "network's weights."
        )
    return traverse_util.unflatten_dict(made, sep="/")


@functools.cache
def parameter_shapes() -> Mapping[str, tuple[int, ...]]:
    """The shape of each parameter of `InceptionV3`, by its path (`Mixed_5b/branch1x1/norm/mean`).

    Found once, by a trace without numbers.
    """
    picture = jnp.zeros((1, SIDE, SIDE, 3))
    boxed = jax.eval_shape(InceptionV3().init, jax.random.key(0), picture)
    leaves = traverse_util.flatten_dict(unbox(boxed)["params"], sep="/")
    return {path: leaf.shape for path, leaf in leaves.items()}


def torch_name(path: str) -> str:
    """The published name of a parameter: `A/norm/mean` is `A.bn.running_mean`."""
    *block, holder, leaf = path.split("/")
    return ".".join([*block, NAMES[f"{holder}/{leaf}"]])

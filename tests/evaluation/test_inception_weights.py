import hashlib

import numpy as np
import pytest

from jaxgen.errors import UserError
from jaxgen.evaluation.inception_weights import (
    SHA256,
    parameter_shapes,
    parameters,
    read_weights,
    torch_name,
)

GENERATOR = np.random.default_rng(0)


def published():
    """Tensors of the right shapes under the published names, numbers where it is checked."""
    tensors = {"Mixed_5b.branch1x1.bn.num_batches_tracked": np.array(7)}
    for path, ours in parameter_shapes().items():
        turned = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[len(ours)]
        tensors[torch_name(path)] = np.zeros([ours[axis] for axis in turned], np.float16)
    for name in ("Mixed_6b.branch7x7_2.conv.weight", "fc.weight"):
        tensors[name] = GENERATOR.normal(size=tensors[name].shape).astype(np.float32)
    return tensors


def test_there_are_as_many_numbers_as_in_the_published_file():
    """Whose 95,628,359 bytes are these in float32 and 87 kB of names and frames."""
    size = sum(int(np.prod(shape)) for shape in parameter_shapes().values())
    assert size == 23_885_392 and 0 < 95_628_359 - 4 * size < 100_000


def test_tensors_are_found_by_their_published_names_and_turned():
    assert torch_name("Mixed_5b/branch1x1/norm/mean") == "Mixed_5b.branch1x1.bn.running_mean"
    tensors = published()
    made = parameters(tensors)
    kernel = made["Mixed_6b"]["branch7x7_2"]["convolution"]["kernel"]
    assert kernel.shape == (1, 7, 128, 128) and kernel.dtype == np.float32
    weight = tensors["Mixed_6b.branch7x7_2.conv.weight"]
    np.testing.assert_array_equal(kernel[0, 2, 5, 9], weight[9, 5, 0, 2])
    np.testing.assert_array_equal(made["logits"]["kernel"], tensors["fc.weight"].T)


@pytest.mark.parametrize(
    "change, said",
    [
        ({"fc.bias": None}, r"lacks fc.bias \(1008,\)"),
        ({"fc.weight": np.zeros((1000, 2048))}, r"fc.weight in the shape \(1000, 2048\)"),
        ({"AuxLogits.fc.bias": np.zeros(3)}, "has AuxLogits.fc.bias, which"),
    ],
)
def test_other_networks_weights_are_named(change, said):
    tensors = {**published(), **change}
    with pytest.raises(UserError, match=said):
        parameters({name: value for name, value in tensors.items() if value is not None})


def test_a_missing_file_says_where_it_comes_from(tmp_path):
    said = rf"no Inception weights at .*gone.pth: download https://github.com/.*{SHA256}.*put it"
    with pytest.raises(UserError, match=said):
        read_weights(tmp_path / "gone.pth")


def test_another_checksum_is_used_only_when_asked_for(tmp_path):
    path = tmp_path / "weights.npz"
    np.savez(path, **published())
    with pytest.raises(UserError, match=f"not {SHA256}: fetch it again"):
        read_weights(path)
    with pytest.raises(UserError, match="not 0000"):
        read_weights(path, sha256="0000")
    own = read_weights(path, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    assert read_weights(path, sha256=None).keys() == own.keys()
    assert own["logits"]["kernel"].shape == (2048, 1008)

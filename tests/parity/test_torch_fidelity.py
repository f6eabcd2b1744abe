"""Our Inception-v3 and PyTorch's ports of the distance's: the same features of the same weights."""

import importlib.util
import sys
from collections import OrderedDict
from importlib import import_module

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.data.images import to_signed
from jaxgen.evaluation.features import read
from jaxgen.evaluation.inception import FrechetFeatures, InceptionV3, resized
from jaxgen.evaluation.inception_weights import parameter_shapes, read_weights, torch_name
from jaxgen.parallel.mesh import MeshShape, make_mesh

torch = pytest.importorskip("torch")
if importlib.util.find_spec("torch_fidelity") is None:
    pytest.skip("torch_fidelity is not installed", allow_module_level=True)

NAMES = ["64", "192", "768", "2048", "logits_unbiased", "logits"]


@pytest.fixture(scope="module", autouse=True)
def without_torchvision():
    """Finds torch_fidelity's modules without running its opening, which needs torchvision.

    What is compared with needs none: that is for its data sets and its other networks.
    """
    package = importlib.util.module_from_spec(importlib.util.find_spec("torch_fidelity"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "torch_fidelity", package)
        yield
    for name in [name for name in sys.modules if name.startswith("torch_fidelity.")]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file as PyTorch saves it, in which the signal neither dies nor explodes on its way."""
    generator = np.random.default_rng(0)
    tensors = OrderedDict()
    for path, shape in parameter_shapes().items():
        leaf = path.split("/")[-1]
        if leaf == "kernel":
            shape = {4: shape[:1:-1] + shape[:2], 2: shape[::-1]}[len(shape)]
            values = generator.normal(size=shape) * np.sqrt(2 / np.prod(shape[1:]))
        elif leaf in ("scale", "variance"):
            values = generator.uniform(0.5, 1.5, shape)
        else:
            values = generator.normal(size=shape) * 0.3
        tensors[torch_name(path)] = torch.tensor(values, dtype=torch.float32)
    path = tmp_path_factory.mktemp("weights") / "weights.pth"
    torch.save(tensors, path, _use_new_zipfile_serialization=False)
    return path


def pictures(count, side):
    """Eight-bit pictures with structure at every scale, no two alike."""
    generator = np.random.default_rng(1)
    coarse = generator.uniform(0, 255, (count, 4, 4, 3)).repeat(side // 4, 1).repeat(side // 4, 2)
    noise = generator.normal(size=(count, side, side, 3)) * 40
    return np.clip(coarse + noise, 0, 255).astype(np.uint8)


def expected(extractor, eight_bits):
    with torch.no_grad():
        features = extractor(torch.tensor(eight_bits.transpose(0, 3, 1, 2)))
    return [feature.numpy() for feature in features]


def relative(found, wanted):
    """The largest difference, in units of how much the wanted numbers differ among themselves."""
    return np.max(np.abs(np.asarray(found) - wanted)) / np.std(wanted)


@pytest.mark.slow
def test_every_feature_is_torch_fidelitys(weights):
    eight_bits = pictures(2, 32)
    peer = import_module("torch_fidelity.feature_extractor_inceptionv3")
    extractor = peer.FeatureExtractorInceptionV3("inception", NAMES, str(weights))
    params = read_weights(weights, sha256=None)
    apply = jax.jit(lambda params, x: InceptionV3().apply({"params": params}, x))
    found = apply(params, jnp.asarray(to_signed(eight_bits)))
    for name, ours, theirs in zip(NAMES, found, expected(extractor, eight_bits), strict=True):
        # Pictures must tell apart, or anything would agree.
        assert np.abs(theirs[0] - theirs[1]).max() > 0.1 * np.std(theirs), name
        assert relative(ours, theirs) < 2e-5, name
        assert ours.shape == theirs.shape


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of torchmetrics' own imports
def test_reader_gives_torchmetrics_features_and_labels(weights):
    fid = pytest.importorskip("torchmetrics.image.fid")
    eight_bits = pictures(3, 48)

    def peer(name):
        # By default torchmetrics smooths while it resizes; without, it is the original's.
        return fid.NoTrainInceptionV3("inception", [name], str(weights), antialias=False)

    features, logits = (np.stack(expected(peer(name), eight_bits)) for name in ("2048", "logits"))
    params = read_weights(weights, sha256=None)
    with jax.set_mesh(make_mesh(MeshShape())):
        labels, found = read(FrechetFeatures(), params, to_signed(eight_bits), batch_size=2)
    assert relative(found, features) < 2e-5
    np.testing.assert_array_equal(labels, logits.argmax(-1))


@pytest.mark.parametrize("height, width", [(32, 28), (400, 299)])
def test_resizing_is_torch_fidelitys(height, width):
    values = np.random.default_rng(2).uniform(0, 255, (1, height, width, 3)).astype(np.float32)
    peer = import_module("torch_fidelity.interpolate_compat_tensorflow")
    theirs = peer.interpolate_bilinear_2d_like_tensorflow1x(
        torch.tensor(values.transpose(0, 3, 1, 2)), size=(299, 299), align_corners=False
    )
    found = resized(jnp.asarray(values), 299)
    np.testing.assert_allclose(found, theirs.numpy().transpose(0, 2, 3, 1), atol=1e-4)

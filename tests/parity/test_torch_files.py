"""Files that PyTorch wrote, in both of its formats, read without it."""

import numpy as np
import pytest

from jaxgen.errors import UserError
from jaxgen.evaluation.tensor_files import arrays_in

torch = pytest.importorskip("torch")


def saved(value, path, as_zip):
    torch.save(value, path, _use_new_zipfile_serialization=as_zip)
    return arrays_in(path.read_bytes(), path.name)


@pytest.mark.parametrize("as_zip", [True, False])
def test_a_networks_state_is_read_bit_by_bit(tmp_path, as_zip):
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    state = network.state_dict()
    base = torch.arange(24.0)
    state |= {"turned": base.reshape(4, 6).T, "part": base[5:17:3]}  # of one storage
    state |= {"half": base.half(), "long": base.long(), "double": base.double(), "is": base > 3}
    state["parameter"] = torch.nn.Parameter(base.reshape(2, 3, 4))
    state["none"] = torch.zeros(0, 3)
    found = saved(state, tmp_path / "state.pth", as_zip)
    assert found.keys() == state.keys()
    for name, tensor in state.items():
        np.testing.assert_array_equal(found[name], tensor.detach().numpy(), err_msg=name)
        assert found[name].dtype == tensor.detach().numpy().dtype


@pytest.mark.parametrize("as_zip", [True, False])
def test_whole_networks_are_refused(tmp_path, as_zip):
    with pytest.raises(UserError, match=r"asks for torch.nn.modules.linear.Linear"):
        saved(torch.nn.Linear(2, 2), tmp_path / "network.pth", as_zip)

"""Files of weights: nothing in them is run, damage is one line, torch's reader and ours read the same."""

import os
import pickle
import zipfile

import numpy as np
import pytest
import safetensors.numpy

from ddpm_jax.convert import pickles
from ddpm_jax.convert.files import new_folder, read_weights
from ddpm_jax.errors import UserError


@pytest.fixture(params=["torch's reader", "our reader"])
def read(request, monkeypatch):
    """`read_weights` as it is with torch, and as it is without."""
    if request.param == "our reader":
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    else:
        pytest.importorskip("torch", reason="pip install -r requirements-diffusers.txt")
    return read_weights


class Malicious:
    """Unpickled without care, it makes a file."""

    def __init__(self, path):
        self._path = str(path)

    def __reduce__(self):
        return os.mkdir, (self._path,)


def archive(path, content):
    """A file in torch's form around a pickle."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(content, protocol=2))
        file.writestr("archive/version", "3\n")
    return path


def test_a_malicious_pickle_is_refused_and_runs_nothing(read, tmp_path):
    path, made = archive(tmp_path / "weights.pt", {"w": Malicious(tmp_path / "made")}), tmp_path / "made"
    pickle.loads(pickle.dumps({"w": Malicious(made)}))
    assert made.exists()  # so it does run, where it is let
    made.rmdir()
    with pytest.raises(UserError, match=r"asks to run posix\.mkdir, and was not opened") as caught:
        read(path)
    assert "\n" not in str(caught.value)
    assert not made.exists()


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_a_truncated_file_is_one_line(name, read, tmp_path):
    path = archive(tmp_path / name, {})
    if name.endswith("safetensors"):
        safetensors.numpy.save_file({"a": np.ones(1000, np.float32)}, path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(UserError, match="fetch it again") as caught:
        read(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"there is no file .*nothing\.pt"):
        read_weights(tmp_path / "nothing.pt")


def test_our_reader_reads_what_torch_writes(tmp_path, monkeypatch):
    """Types, views of one storage, turned tensors, parameters, containers, a scalar and nothing at all."""
    torch = pytest.importorskip("torch", reason="pip install -r requirements-diffusers.txt")
    whole = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    content = {
        "whole": whole,
        "turned": whole.T,
        "part": whole[1:3, 2:5],
        "parameter": torch.nn.Parameter(torch.randn(3)),
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 3),
        "half": torch.tensor([1.5, -2.0], dtype=torch.float16),
        "bfloat16": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
        "double": torch.tensor([1.0], dtype=torch.float64),
        "integer": torch.tensor([[1, 2]], dtype=torch.int64),
    }
    torch.save([torch.nn.Linear(2, 3).state_dict(), content, {"step": 7}], tmp_path / "weights.pt")
    expected = read_weights(tmp_path / "weights.pt")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    found = read_weights(tmp_path / "weights.pt")
    assert found[2] == expected[2] == {"step": 7}
    for ours, theirs in zip(found[:2], expected[:2], strict=True):
        assert ours.keys() == theirs.keys()
        for name in theirs:
            np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


def test_files_older_than_torch_1_6_need_torch(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch", reason="pip install -r requirements-diffusers.txt")
    path = tmp_path / "weights.pt"
    torch.save({"w": torch.ones(2)}, path, _use_new_zipfile_serialization=False)
    np.testing.assert_array_equal(read_weights(path)["w"], np.ones(2))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"older than torch 1\.6: fetch it again, or install torch"):
        read_weights(path)


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [(0, (5,), (1,)), (3, (2,), (1,)), (0, (2, 2), (3, 1)), (-1, (1,), (1,)), (0, (2,), (-1,))],
)
def test_no_tensor_reaches_beyond_its_numbers(offset, size, stride):
    with pytest.raises(ValueError, match="a tensor"):
        pickles._tensor(np.zeros(4, np.float32), offset, size, stride)


def test_a_new_folder_is_whole_or_absent(tmp_path):
    def fail():
        with new_folder(tmp_path / "run") as folder:
            (folder / "half").write_text("")
            raise ValueError("something")

    with pytest.raises(ValueError, match="something"):
        fail()
    assert not list(tmp_path.iterdir())
    with new_folder(tmp_path / "run") as folder:
        (folder / "whole").write_text("")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["whole"]
    with pytest.raises(UserError, match="there is something already"), new_folder(tmp_path / "run"):
        pass

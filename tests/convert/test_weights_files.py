"""Files of weights: nothing in them is run, damage is one line, torch's reader and ours read the same."""

import os
import pickle
import signal
import tarfile
import zipfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from weights import GIVEN, GOLDEN

from ddpm_jax.checkpoint import Checkpoints
from ddpm_jax.convert import pickles
from ddpm_jax.convert.files import is_state_dict, new_folder, read_weights, undisturbed
from ddpm_jax.convert.incoming import import_weights, understood
from ddpm_jax.errors import UserError


@pytest.fixture(params=["torch's reader", "our reader"])
def read(request, monkeypatch):
    """`read_weights` as it is with torch, and as it is without."""
    if request.param == "our reader":
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    else:
        pytest.importorskip("torch", reason="pip install -r requirements/diffusers.txt")
    return read_weights


class Malicious:
    """Unpickled without care, it makes a file."""

    def __init__(self, path):
        self._path = str(path)

    def __reduce__(self):
        return os.mkdir, (self._path,)


def archive(path, pickled, *, compression=zipfile.ZIP_STORED):
    """A file in torch's form around a pickle and a storage of four numbers."""
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("archive/data.pkl", pickled)
        file.writestr("archive/data/0", np.arange(1, 5, dtype="<f4").tobytes())
        file.writestr("archive/version", "3\n")
    return path


def code(value):
    """The instructions of a pickle that make a value."""
    return pickle.dumps(value, protocol=2)[2:-1]


def program(*instructions):
    """The pickle of these instructions."""
    return b"\x80\x02" + b"".join(instructions) + b"."


FLOATS, TENSOR = b"ctorch\nFloatStorage\n", b"ctorch._utils\n_rebuild_tensor_v2\n"


def storage(kind=FLOATS):
    """The instructions for the four numbers."""
    return b"(" + code("storage") + kind + code("0") + code("cpu") + code(4) + b"tQ"


def tensor(numbers, size=(4,), stride=(1,)):
    """The instructions for a tensor of these numbers."""
    return TENSOR + b"(" + numbers + code(0) + code(size) + code(stride) + code(False) + code({}) + b"tR"


def dict_of(name, instructions):
    """The instructions for a dict."""
    return b"}" + code(name) + instructions + b"s"


def test_a_malicious_pickle_is_refused_and_runs_nothing(read, tmp_path):
    made = tmp_path / "made"
    path = archive(tmp_path / "weights.pt", pickle.dumps({"w": Malicious(made)}, protocol=2))
    pickle.loads(pickle.dumps({"w": Malicious(made)}))
    assert made.exists()  # so it does run, where it is let
    made.rmdir()
    with pytest.raises(UserError, match=r"asks to run posix\.mkdir, and was not opened") as caught:
        read(path)
    assert "\n" not in str(caught.value)
    assert not made.exists()


def test_a_pickle_of_tensors_is_read(read, tmp_path):
    path = archive(tmp_path / "weights.pt", program(dict_of("w", tensor(storage(), (2, 2), (1, 2)))))
    np.testing.assert_array_equal(read(path)["w"], [[1, 3], [2, 4]])


HOSTILE = {
    "a tensor as the numbers of another": dict_of("w", tensor(tensor(storage(), (10**9,), (0,)), (10**6,))),
    "an attribute of a kind of numbers": b"ctorch\nBFloat16Storage\n" + code((None, {"dtype": "x"})) + b"b",
    "an attribute of a function": TENSOR + code((None, {"__doc__": "x", "__defaults__": ("x",)})) + b"b",
    "a kind of numbers of its own": dict_of("w", tensor(storage(code("S4")))),
    "an object as numbers": dict_of("w", tensor(storage(code("O")), (2,))),
}


@pytest.mark.parametrize("attack", list(HOSTILE))
def test_a_pickle_gets_nothing_to_reach_or_change_memory_by(attack, read, tmp_path):
    def shared():
        return jnp.bfloat16.dtype, pickles._tensor.__doc__, pickles._tensor.__defaults__, vars(pickles).keys()

    before = shared()
    with pytest.raises(UserError, match=r"no whole file of weights \([^\n]+\); fetch it again$"):
        read(archive(tmp_path / "weights.pt", program(HOSTILE[attack])))
    assert shared() == before


def test_what_a_pickle_says_of_a_dict_does_not_hide_its_tensors(read, tmp_path):
    """torch notes the versions of modules as an attribute of the dict; another attribute would hide a method."""
    ordered = b"ccollections\nOrderedDict\n)R" + code("w") + tensor(storage()) + b"s"
    content = read(archive(tmp_path / "weights.pt", program(ordered + code({"items": "x", "values": "x"}) + b"b")))
    assert is_state_dict(content)
    np.testing.assert_array_equal(dict(content.items())["w"], [1, 2, 3, 4])


def test_lists_in_lists_do_not_grow(read, tmp_path):
    nested = ["x"]
    for _ in range(45):
        nested = [nested, nested]
    path = archive(tmp_path / "weights.pt", program(b"]", dict_of("w", tensor(storage())), b"a", code(nested), b"a"))
    np.testing.assert_array_equal(read(path)[0]["w"], [1, 2, 3, 4])


def test_a_compressed_archive_is_refused_before_it_is_unpacked(read, tmp_path):
    pickled = program(dict_of("w", tensor(storage())))
    with pytest.raises(UserError, match="is a compressed archive, which no file of PyTorch's is"):
        read(archive(tmp_path / "weights.pt", pickled, compression=zipfile.ZIP_DEFLATED))


def test_an_archive_whose_members_share_their_bytes_is_refused(read, tmp_path):
    path = archive(tmp_path / "weights.pt", program(dict_of("w", tensor(storage()))))
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("archive/data/1", bytes(10_000))
        file.filelist += 20 * [file.getinfo("archive/data/1")]
    with pytest.raises(UserError, match="is a compressed archive"):
        read(path)


def test_names_are_words(read, tmp_path):
    path = archive(tmp_path / "weights.pt", program(dict_of(1, tensor(storage()))))
    assert not is_state_dict(read(path))
    with pytest.raises(UserError, match="holds no state dict: names with a tensor each"):
        understood(path, {})


def test_names_from_files_are_printed_as_one_line(read, tmp_path):
    path = archive(tmp_path / "weights.pt", program(dict_of("a\nerror: b\x1b[31m\u2028\xe9", tensor(storage()))))
    with pytest.raises(UserError) as caught:
        understood(path, {})
    assert str(caught.value).endswith(r"its first tensors are a\nerror: b\x1b[31m\u2028é")


@pytest.mark.parametrize("pickled", [program(dict_of("w", tensor(storage())))[:-20], b"\x80\x02\x8e" + b"\x40" * 8])
def test_a_broken_pickle_is_not_said_to_ask_for_anything(pickled, read, tmp_path):
    """One that ends too early; one that holds what torch does not write."""
    with pytest.raises(UserError, match=r"no whole file of weights \([^\n]+\); fetch it again$"):
        read(archive(tmp_path / "weights.pt", pickled))


def test_numbers_of_an_unknown_kind_are_one_line(tmp_path):
    header = b'{"a":{"dtype":"F8_E4M3","shape":[1],"data_offsets":[0,1]}}'
    path = tmp_path / "weights.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0")
    with pytest.raises(UserError, match=r"has numbers of an unknown kind \(.*float8.*\); save it as float32"):
        read_weights(path)


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors", "config.json"])
def test_what_may_not_be_read_is_not_called_damaged(name, tmp_path, monkeypatch):
    for file in ("weights.pt", "weights.safetensors", "config.json", "diffusion_pytorch_model.bin"):
        (tmp_path / file).write_bytes(b"")
    opened = Path.open

    def locked(path, *args, **kwargs):
        if path.name == name:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", locked)
    with pytest.raises(UserError, match=rf"^cannot read .*{name}: Permission denied$"):
        understood(tmp_path if name == "config.json" else tmp_path / name, {})


def test_a_disk_that_fails_is_not_a_damaged_file(tmp_path, monkeypatch):
    def failing(*args, **kwargs):
        raise OSError(5, "Input/output error")

    safetensors.numpy.save_file({"a": np.ones(1, np.float32)}, tmp_path / "weights.safetensors")
    monkeypatch.setattr(safetensors, "safe_open", failing)
    with pytest.raises(UserError, match=r"^cannot read .*weights.safetensors: Input/output error$"):
        read_weights(tmp_path / "weights.safetensors")


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_a_truncated_file_is_one_line(name, read, tmp_path):
    path = archive(tmp_path / name, program(dict_of("w", tensor(storage()))))
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
    torch = pytest.importorskip("torch", reason="pip install -r requirements/diffusers.txt")
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
    torch = pytest.importorskip("torch", reason="pip install -r requirements/diffusers.txt")
    path = tmp_path / "weights.pt"
    torch.save({"w": torch.ones(2)}, path, _use_new_zipfile_serialization=False)
    np.testing.assert_array_equal(read_weights(path)["w"], np.ones(2))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"older than torch 1\.6: fetch it again, or install torch"):
        read_weights(path)


def test_nobody_is_advised_to_open_a_file_unguarded(read, tmp_path):
    path = tmp_path / "weights.pt"
    with tarfile.open(path, "w") as file:
        for name in ("storages", "tensors", "pickle"):
            file.addfile(tarfile.TarInfo(name))
    with pytest.raises(UserError) as caught:
        read(path)
    assert "False" not in str(caught.value)


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [(0, (5,), (1,)), (3, (2,), (1,)), (0, (2, 2), (3, 1)), (-1, (1,), (1,)), (0, (2,), (-1,)), (0, (True,), (1,))],
)
def test_no_tensor_reaches_beyond_its_numbers(offset, size, stride):
    with pytest.raises(ValueError, match="a tensor"):
        pickles._tensor(pickles._Storage(np.zeros(4, np.float32)), offset, size, stride)


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


def test_the_folders_that_hold_a_new_one_vanish_with_it(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(ValueError, match="something"), new_folder(tmp_path / "a" / "b" / "c" / "run"):
        raise ValueError("something")
    assert [path.name for path in tmp_path.rglob("*")] == ["a"]
    with new_folder(tmp_path / "a" / "b" / "c" / "run"):
        pass
    assert (tmp_path / "a" / "b" / "c" / "run").is_dir()


def test_sigterm_ends_a_new_folder_as_an_interruption_does(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "run"):
        signal.raise_signal(signal.SIGTERM)
    assert not list(tmp_path.iterdir())
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_waits_for_the_checkpoint_and_leaves_nothing(number, tmp_path, monkeypatch):
    """Orbax's threads go on writing whatever becomes of the main one, and would make the folder anew."""
    wait, finished = Checkpoints.wait, []

    def interrupted(checkpoints):
        signal.raise_signal(number)
        wait(checkpoints)
        finished.append(list(tmp_path.glob(".run.partial/checkpoints/0")))

    monkeypatch.setattr(Checkpoints, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        import_weights(GOLDEN / "classifier.safetensors", tmp_path / "run", given=GIVEN["classifier"])
    assert len(finished) == 1
    assert finished[0]
    assert not list(tmp_path.iterdir())


def test_a_second_interruption_is_not_put_off():
    before, passed = signal.getsignal(signal.SIGINT), []

    def twice():
        with undisturbed():
            for place in ("first", "second"):
                signal.raise_signal(signal.SIGINT)
                passed.append(place)

    with pytest.raises(KeyboardInterrupt):
        twice()
    assert passed == ["first"]
    assert signal.getsignal(signal.SIGINT) is before

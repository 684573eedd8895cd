"""Files of weights: safetensors, what cannot be read, names in messages; folders that are whole or absent."""

import json
import signal
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from support.weights import GIVEN, GOLDEN

from ddpm_jax.convert.files import check_new, new_folder, read_weights, undisturbed, without_prefix
from ddpm_jax.convert.incoming import import_weights, understood
from ddpm_jax.convert.loader import parameters
from ddpm_jax.convert.names import Tensor
from ddpm_jax.errors import UserError
from ddpm_jax.training.checkpoint import Checkpoints


def safetensors_file(path: Path, header: object, numbers: bytes = b"", *, length: int | None = None) -> Path:
    """A safetensors file of this header, which may say another length than it has."""
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    length = len(header) if length is None else length
    path.write_bytes(length.to_bytes(8, "little") + header + numbers)
    return path


def one(kind: str, shape: list[int], end: int, *, name: str = "a") -> dict:
    """The header of one tensor."""
    return {name: {"dtype": kind, "shape": shape, "data_offsets": [0, end]}}


@pytest.mark.parametrize(("kind", "size"), [("F8_E4M3", 4), ("F8_E5M2", 4), ("F6_E2M3", 3)])
def test_numbers_of_an_unknown_kind_are_one_line(kind, size, tmp_path):
    path = safetensors_file(tmp_path / "weights.safetensors", one(kind, [4], size), bytes(size))
    unheard_of = "InvalidHeaderDeserialization"  # what an older safetensors says, which is one line too
    message = rf"has numbers of an unknown type \(.*\); save it as float32|{unheard_of}"
    with pytest.raises(UserError, match=message):
        read_weights(path)


@pytest.mark.parametrize(("kind", "numbers"), [("BF16", b"\x80\x3f\x00\xc0"), ("F16", b"\x00\x3c\x00\xc0")])
def test_half_precision_becomes_float32(kind, numbers, tmp_path):
    path = safetensors_file(tmp_path / "weights.safetensors", one(kind, [2], 4), numbers)
    params = parameters(read_weights(path), [Tensor("a", {"b.bias": (2,)}, False, 0, 1)], source=path)
    np.testing.assert_array_equal(params["b"]["bias"], np.array([1, -2], np.float32))
    assert params["b"]["bias"].dtype == np.float32


HEADERS = {
    "a header longer than the file": (b"{}", b"", 2**62),
    "a header longer than memory": (b"{}", b"", 2**63 - 1),
    "no header": (b"", b"", None),
    "nested lists": (10_000 * b"[", b"", None),
    "more than the file has": (one("F32", [2**40], 2**42), bytes(4), None),
    "a size beyond 64 bits": (one("F32", [2**40, 2**40], 2**42), bytes(4), None),
    "a size below 0": (one("F32", [-1], 4), bytes(4), None),
    "nothing of a giant size": (one("F32", [0, 2**62, 2**62], 0), b"", None),
    "another shape": (one("F32", [2], 4), bytes(4), None),
    "more axes than there are": (one("F32", 70 * [1], 4), bytes(4), None),
    "tensors that overlap": (one("F32", [1], 4) | one("F32", [1], 4, name="b"), bytes(4), None),
    "a gap": (one("F32", [1], 4), bytes(8), None),
    "a kind of no name": (one("", [1], 4), bytes(4), None),
}


@pytest.mark.parametrize("fault", list(HEADERS))
def test_a_hostile_header_is_one_line(fault, tmp_path):
    header, numbers, length = HEADERS[fault]
    path = safetensors_file(tmp_path / "weights.safetensors", header, numbers, length=length)
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=r"not a complete file of weights \(.+\); download it again$") as caught:
            read_weights(path)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
    assert len(str(caught.value)) < 300 + len(str(path))


def test_a_truncated_safetensors_file_is_one_line(tmp_path):
    path = tmp_path / "weights.safetensors"
    safetensors.numpy.save_file({"a": np.ones(1000, np.float32)}, path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(UserError, match="download it again"):
        read_weights(path)


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "module.module."]
)
def test_what_training_puts_before_names_is_taken_off(prefix):
    weights = {"conv_in.weight": np.ones(1), "modules.bias": np.zeros(1)}
    found = without_prefix({f"{prefix}{name}": array for name, array in weights.items()})
    assert found == weights


def test_names_within_parts_that_were_compiled_are_those_of_the_network():
    parts = {"down.0._orig_mod.conv.weight": 1, "_orig_mod.out.bias": 2, "in.bias": 3}
    assert without_prefix(parts) == {"down.0.conv.weight": 1, "out.bias": 2, "in.bias": 3}
    two = {"a.weight": 1, "_orig_mod.a.weight": 2}  # neither is dropped
    assert without_prefix(two) == two
    some = {"module.a": 1, "b": 2}
    assert without_prefix(some) == some


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
    with pytest.raises(UserError, match=rf"^cannot read .*{name}: Permission denied; make it "):
        understood(tmp_path if name == "config.json" else tmp_path / name, {})


def test_a_disk_that_fails_is_not_a_damaged_file(tmp_path, monkeypatch):
    def failing(*args, **kwargs):
        raise OSError(5, "Input/output error")

    safetensors.numpy.save_file({"a": np.ones(1, np.float32)}, tmp_path / "weights.safetensors")
    monkeypatch.setattr(safetensors, "safe_open", failing)
    with pytest.raises(UserError, match=r"^cannot read .*weights.safetensors: Input/output error; make it "):
        read_weights(tmp_path / "weights.safetensors")


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"there is no file .*nothing\.pt"):
        read_weights(tmp_path / "nothing.pt")


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
    with pytest.raises(UserError, match="exists already"), new_folder(tmp_path / "run"):
        pass


@pytest.mark.parametrize("there", [True, False])
def test_a_link_leads_to_the_new_folder(tmp_path, there):
    """Whether there is an empty folder already, or nothing yet."""
    (tmp_path / "disk").mkdir()
    if there:
        (tmp_path / "disk" / "run").mkdir()
    (tmp_path / "link").symlink_to("disk/run")
    with new_folder(tmp_path / "link") as folder:
        (folder / "whole").write_text("")
    assert (tmp_path / "link").is_symlink()
    assert [path.name for path in (tmp_path / "disk" / "run").iterdir()] == ["whole"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "link"]


def test_what_a_new_folder_cannot_replace_is_refused_at_the_start(tmp_path, monkeypatch):
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"loop exists already; choose a new name$"):
        check_new(tmp_path / "loop")
    assert check_new(tmp_path / "empty") == tmp_path / "empty"
    with monkeypatch.context() as patch:
        patch.setattr(Path, "is_mount", lambda path: path.name == "empty")
        with pytest.raises(UserError, match=r"empty is a mount point, .*: give a folder inside it$"):
            check_new(tmp_path / "empty")
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(UserError, match=r"^\. is the current folder, "):
        check_new(".")


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

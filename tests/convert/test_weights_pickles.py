"""PyTorch's files: read as torch reads them, bounded by their size, and nothing in them is run."""

import os
import pickle
import tarfile
import tracemalloc
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest
from support.torch_file import FLOATS, TENSOR, archive, before_1_6, code, dict_of, program, storage, tensor

from ddpm_jax.convert import torch_files
from ddpm_jax.convert.files import is_state_dict, read_weights
from ddpm_jax.convert.incoming import understood
from ddpm_jax.errors import UserError

BROKEN = r"not a complete file of weights \([^\n]+\); download it again$"


@pytest.fixture(params=[archive, before_1_6], ids=["torch 1.6", "before"])
def written(request, tmp_path):
    """A function from a pickle to a file of torch's around it, in either form."""
    return lambda pickled: request.param(tmp_path / "weights.pt", pickled)


@pytest.fixture
def old(request):
    """Whether it is the form of torch before 1.6."""
    return request.node.callspec.params.get("written") is before_1_6


class Malicious:
    """Unpickled without care, it makes a file."""

    def __init__(self, path):
        self._path = str(path)

    def __reduce__(self):
        return os.mkdir, (self._path,)


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_malicious_pickle_is_refused_and_runs_nothing(protocol, written, tmp_path):
    made = tmp_path / "made"
    pickled = pickle.dumps({"w": Malicious(made)}, protocol=protocol)
    pickle.loads(pickled)
    assert made.exists()  # so it does run, where it is let
    made.rmdir()
    with pytest.raises(UserError, match=r"asks to run posix\.mkdir, so it was not opened") as caught:
        read_weights(written(pickled))
    assert "\n" not in str(caught.value)
    assert not made.exists()


def test_a_pickle_of_tensors_is_read(written, old):
    path = written(program(dict_of("w", tensor(storage(old=old), (2, 2), (1, 2)))))
    np.testing.assert_array_equal(read_weights(path)["w"], [[1, 3], [2, 4]])


NO_SIZE, NO_VALUE = "a tensor without a size", "an instruction without its values"
HOSTILE = {  # (instructions, what is said of them)
    "a tensor as numbers": (tensor(tensor(storage(), (4,), (0,)), (10**6,)), "a tensor without numbers"),
    "a tensor beyond its numbers": (tensor(storage(), (5,)), "larger than its numbers"),
    "a tensor that repeats its numbers": (tensor(storage(), (10**9,), (0,)), "larger than its numbers"),
    "more axes than there are": (tensor(storage(), 33 * (1,), 33 * (1,)), NO_SIZE),
    "a size of very many digits": (tensor(storage(), (2**100,)), NO_SIZE),
    "an attribute of a kind of numbers": (FLOATS + code((None, {"dtype": "x"})) + b"b", "an instruction for a dict"),
    "an attribute of a function": (TENSOR + code((None, {"__doc__": "x"})) + b"b", "an instruction for a dict"),
    "a kind of numbers of its own": (storage(code("S4")), "numbers of an unknown type"),
    "an object as numbers": (storage(code("O")), "numbers of an unknown type"),
    "two kinds for the same numbers": (storage() + storage(b"ctorch\nIntStorage\n"), "two types in one storage"),
    "numbers of no storage": (code(("module", 1, 2, 3, 4)) + b"Q", "numbers of an unknown type"),
    "numbers without a name": (code(1) + b"Q", "numbers without a name"),
    "a call of a word": (code("os.system") + code(("true",)) + b"R", "not a function"),
    "a call of what was made": (b"}" + code(()) + b"R", "not a function"),
    "a call with a list": (b"ccollections\nOrderedDict\n]R", "not a function"),
    "a dict of a word": (b"ccollections\nOrderedDict\n" + code(("ab",)) + b"R", "a dict of something else"),
    "a name that is a tuple": (b"}" + code(("a", "b")) + code(1) + b"s", "a tuple as the name of a value"),
    "an item of a word": (code("ab") + code(1) + b"a", "an instruction for a list without one"),
    "an item of nothing": (code(1) + b"a", "an instruction for a list without one"),
    "a name of nothing": (code(1) + b"s", NO_VALUE),
    "a module that is not a word": (code(1) + code("b") + b"\x93", "a name that is not text"),
    "a tuple of nothing": (b"\x87", NO_VALUE),
    "a mark that is not there": (b"t", "without its mark"),
    "a memory that is not there": (b"h\x07", "was not stored"),
    "a number of very many digits": (b"\x8b" + (10**6).to_bytes(4, "little") + 10**6 * b"\x7f", "very many digits"),
    "a word that is longer than the file": (b"X\xff\xff\xff\xff", "expected 4294967295 bytes"),
    "bytes that are longer than the file": (b"\x8e" + 8 * b"\x40", "expected 4629771061636907072 bytes"),
    "an array that is longer than the file": (b"\x96" + 8 * b"\x40", "expected 4629771061636907072 bytes"),
    "a set": (b"\x8f", "the instruction EMPTY_SET"),
    "an object": (b"ccollections\nOrderedDict\n)\x81", "the instruction NEWOBJ"),
    "a class of a registry": (b"\x82\x01", "the instruction EXT1"),
    "a class by its name": (b"(ios\nsystem\n", "the instruction INST"),
    "a decimal number": (b"I" + 5000 * b"1" + b"\n", "Exceeds the limit"),
    "an unknown instruction": (b"\xff", "unknown"),
    "no end": (code(1), "STOP"),
}


@pytest.mark.parametrize("attack", list(HOSTILE))
def test_a_pickle_gets_nothing_to_reach_or_change_memory_by(attack, tmp_path):
    def shared():
        return jnp.bfloat16.dtype, vars(torch_files).keys(), torch_files._dict.__defaults__

    before, (instructions, reason) = shared(), HOSTILE[attack]
    pickled = program(instructions)[: -1 if attack == "no end" else None]
    with pytest.raises(UserError, match=BROKEN) as caught:
        read_weights(archive(tmp_path / "weights.pt", pickled))
    assert reason in str(caught.value)
    assert shared() == before


def doubled(levels=60):
    """Each tuple twice in the next, from the memory: 2^levels values if ever they were spelled out."""
    return code("x") + b"".join(b"q\x00" + b"h\x00" + b"\x86" for _ in range(levels))


COUNTER = b"ccollections\nCounter\n"
BOMBS = {  # (instructions, what is said of them)
    "a far place in the memory": (code(1) + b"r" + (300_000_000).to_bytes(4, "little"), None),
    "a far place in the memory, in words": (code(1) + b"p4294967295000\n", None),
    "tuples of tuples": (doubled(), None),
    "tuples of tuples as a name": (b"}" + doubled() + code(1) + b"s", "a tuple as the name of a value"),
    "tuples of tuples as a size": (TENSOR + b"(" + storage() + code(0) + doubled() + code((1,)) + b"tR", NO_SIZE),
    "tuples of tuples as numbers": (doubled() + b"Q", "not enough values to unpack"),
    "a dict in itself": (b"}q\x00" + code(1) + b"h\x00s", None),
    "a dict that is copied": (
        b"}q\x00(" + b"".join(code(i) + code(i) for i in range(300)) + b"u" + 300 * (COUNTER + b"h\x00\x85R"),
        None,
    ),
}


@pytest.mark.parametrize("bomb", list(BOMBS))
def test_memory_is_bounded_by_what_is_in_the_file(bomb, tmp_path):
    instructions, reason = BOMBS[bomb]
    path = archive(tmp_path / "weights.pt", program(instructions + dict_of("w", tensor(storage()))))
    tracemalloc.start()
    try:
        if reason is None:
            np.testing.assert_array_equal(read_weights(path)["w"], [1, 2, 3, 4])
        else:
            with pytest.raises(UserError, match=reason):
                read_weights(path)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 2**20


def test_a_pickle_of_endless_instructions_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("ddpm_jax.convert.pickles._MOST", 1000)
    with pytest.raises(UserError, match=r"not a complete file of weights \(more than 1,000 instructions\)"):
        read_weights(archive(tmp_path / "weights.pt", program(1000 * b"]")))


@pytest.mark.parametrize(
    ("offset", "size", "stride", "left"),
    [
        (0, (5,), (1,), 99),
        (3, (2,), (1,), 99),
        (0, (2, 2), (3, 1), 99),
        (0, (5,), (0,), 99),
        (0, (4,), (1,), 15),
        (-1, (1,), (1,), 99),
        (0, (2,), (-1,), 99),
        (0, (True,), (1,), 99),
        (0, (1,), (1, 1), 99),
        (0, [1], (1,), 99),
    ],
)
def test_no_tensor_reaches_beyond_its_numbers(offset, size, stride, left):
    with pytest.raises(ValueError, match="a tensor"):
        torch_files._Views(left)(torch_files._Storage(np.zeros(4, np.float32)), offset, size, stride)


def test_views_of_the_same_numbers_have_a_limit_together():
    views, numbers = torch_files._Views(32), torch_files._Storage(np.zeros(4, np.float32))
    for _ in range(2):
        assert views(numbers, 0, (4,), (1,)).shape == (4,)
    with pytest.raises(ValueError, match="a tensor that is larger than its numbers"):
        views(numbers, 0, (1,), (1,))


def test_what_a_pickle_says_of_a_dict_does_not_hide_its_tensors(written, old):
    """torch notes the versions of modules as an attribute of the dict; another attribute would hide a method."""
    ordered = b"ccollections\nOrderedDict\n)R" + code("w") + tensor(storage(old=old)) + b"s"
    content = read_weights(written(program(ordered + code({"items": "x", "values": "x"}) + b"b")))
    assert is_state_dict(content)
    np.testing.assert_array_equal(dict(content.items())["w"], [1, 2, 3, 4])


def test_lists_in_lists_do_not_grow(written, old):
    nested = ["x"]
    for _ in range(45):
        nested = [nested, nested]
    numbers = dict_of("w", tensor(storage(old=old)))
    content = read_weights(written(program(b"]", numbers, b"a", code(nested), b"a")))
    np.testing.assert_array_equal(content[0]["w"], [1, 2, 3, 4])


def test_a_compressed_archive_is_refused_before_it_is_unpacked(tmp_path):
    pickled = program(dict_of("w", tensor(storage())))
    with pytest.raises(UserError, match="is a compressed archive, which PyTorch never writes"):
        read_weights(archive(tmp_path / "weights.pt", pickled, compression=zipfile.ZIP_DEFLATED))


def test_an_archive_whose_members_share_their_bytes_is_refused(tmp_path):
    path = archive(tmp_path / "weights.pt", program(dict_of("w", tensor(storage()))))
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("archive/data/1", bytes(10_000))
        file.filelist += 20 * [file.getinfo("archive/data/1")]
    with pytest.raises(UserError, match="is a compressed archive"):
        read_weights(path)


def test_a_flipped_bit_of_the_numbers_is_seen(tmp_path):
    path = archive(tmp_path / "weights.pt", program(dict_of("w", tensor(storage()))))
    content = bytearray(path.read_bytes())
    content[content.index(np.arange(1, 5, dtype="<f4").tobytes())] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"not a complete file of weights \(Bad CRC-32"):
        read_weights(path)


OLD = {  # (count in the pickle, arguments of `before_1_6`, what is said)
    "fewer numbers": (5, {}, "of another size than its tensors'"),
    "more numbers than the file has": (10**12, {}, "more numbers than the file has"),
    "a storage more": (4, {"counts": (4, 4)}, "other storages than those of the tensors"),
    "a storage less": (4, {"counts": ()}, "other storages than those of the tensors"),
    "another order of bytes": (4, {"little_endian": False}, "another byte order"),
}


@pytest.mark.parametrize("fault", list(OLD))
def test_a_file_from_before_1_6_is_whole_or_refused(fault, tmp_path):
    count, given, reason = OLD[fault]
    pickled = program(dict_of("w", tensor(storage(count=count, old=True))))
    with pytest.raises(UserError, match=BROKEN) as caught:
        read_weights(before_1_6(tmp_path / "weights.pt", pickled, **given))
    assert reason in str(caught.value)


def test_numbers_in_another_order_of_bytes_are_refused(tmp_path):
    path = archive(tmp_path / "weights.pt", program(dict_of("w", tensor(storage()))))
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("archive/byteorder", "big")
    with pytest.raises(UserError, match="another byte order"):
        read_weights(path)


def test_names_are_words(written, old):
    path = written(program(dict_of(1, tensor(storage(old=old)))))
    assert not is_state_dict(read_weights(path))
    with pytest.raises(UserError, match="contains no state dict, which is a dict of tensors"):
        understood(path, {})


def test_names_from_files_are_printed_as_one_line_of_bounded_length(written, old):
    def refused(name):
        with pytest.raises(UserError) as caught:
            understood(written(program(dict_of(name, tensor(storage(old=old))))), {})
        return str(caught.value)

    assert refused("a\nerror: b\x1b[31m\u2028\xe9").endswith(r"its first tensors are a\nerror: b\x1b[31m\u2028é")
    assert refused(10_000 * "n").endswith("its first tensors are " + 28 * "n" + "..." + 28 * "n")


def test_the_name_of_what_a_pickle_asks_for_is_clipped(written):
    with pytest.raises(UserError, match=r"asks to run o{58}\.\.\.o{51}\.system, so it was not opened") as caught:
        read_weights(written(program(b"c" + 10_000 * b"o" + b"\nsystem\n")))
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("size", [1, 3, 20, 100, 150])
def test_a_truncated_file_is_one_line(size, written, old):
    path = written(program(dict_of("w", tensor(storage(old=old)))))
    path.write_bytes(path.read_bytes()[:-size])
    with pytest.raises(UserError, match="download it again") as caught:
        read_weights(path)
    assert "\n" not in str(caught.value)


def test_what_is_no_file_of_torch_is_said_to_be_none(tmp_path):
    path = tmp_path / "weights.pt"
    for content in (b"", b"hello", b"PK", b"<html>"):
        path.write_bytes(content)
        with pytest.raises(UserError, match="is damaged or is not a PyTorch file: download it again"):
            read_weights(path)
    path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(UserError, match=BROKEN):
        read_weights(path)
    with tarfile.open(path, "w") as file:  # of torch before 0.2
        file.addfile(tarfile.TarInfo("storages"))
    with pytest.raises(UserError, match="is damaged or is not a PyTorch file"):
        read_weights(path)


@pytest.mark.parametrize("form", ["torch 1.6", "before", "protocol 4"])
def test_what_torch_writes_is_read_as_torch_reads_it(form, tmp_path):
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
        "flag": torch.tensor([True, False]),
    }
    network = torch.nn.Linear(2, 3)
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    rest = {"step": 7, "size": torch.Size([2, 3]), "dtype": torch.float16, "device": torch.device("cpu"), 1: [None]}
    path = tmp_path / "weights.pt"
    options = {
        "torch 1.6": {},
        "before": {"_use_new_zipfile_serialization": False},
        "protocol 4": {"pickle_protocol": 4},
    }
    torch.save([network.state_dict(), content, optimizer.state_dict(), rest], path, **options[form])
    found = read_weights(path)
    for ours, theirs in zip(found[:2], (network.state_dict(), content), strict=True):
        assert ours.keys() == theirs.keys()
        for name in theirs:
            expected = theirs[name].detach()
            np.testing.assert_array_equal(
                np.asarray(ours[name], np.float32), expected.to(torch.float32).numpy(), err_msg=name
            )
            assert ours[name].shape == tuple(expected.shape)
            assert str(ours[name].dtype) == str(expected.dtype).removeprefix("torch.")
    assert found[2]["state"][0]["exp_avg"].shape == (3, 2)
    assert found[3] == {"step": 7, "size": (2, 3), "dtype": None, "device": "cpu", 1: [None]}

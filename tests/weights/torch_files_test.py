"""Readers of PyTorch's files: what they read, and that nothing in a file runs or costs much.

Files of PyTorch itself are read in `sources_test.py`; here they are made by hand.
"""

import collections
import io
import pathlib
import pickle
import struct
import zipfile

import ml_dtypes
import numpy as np
import pytest

from jaxcovid.weights.files.pickle_data import Call, Global, read_pickle
from jaxcovid.weights.files.read import parse

VALUES = np.arange(24, dtype=np.float32)


class Storage:
    """Pickled as PyTorch pickles a storage."""

    def __init__(self, key="0", count=24, kind="FloatStorage"):
        self.id = ("storage", Named("torch", kind), key, "cpu", count)


class Named:
    """Pickled as the name of a class or function of any module."""

    def __init__(self, module, name):
        self.module, self.name = module, name


class Tensor:
    def __init__(self, storage, offset, shape, strides):
        self.arguments = (storage, offset, shape, strides, False, collections.OrderedDict())


class Module:
    """Pickled as a module of `net.Net`."""

    def __init__(self, parameters=(), modules=()):
        self.state = {
            "_parameters": dict(parameters),
            "_buffers": {},
            "_modules": dict(modules),
            "training": False,
        }


class _Pickler(pickle._Pickler):
    """Python's own pickler in Python, which can write names of what does not exist."""

    def persistent_id(self, value):
        return value.id if isinstance(value, Storage) else None

    def save_name(self, value):
        self.write(f"c{value.module}\n{value.name}\n".encode())

    def save_tensor(self, value):
        self.save_name(Named("torch._utils", "_rebuild_tensor_v2"))
        self.save(value.arguments)
        self.write(pickle.REDUCE)

    def save_module(self, value):
        self.save_name(Named("net", "Net"))
        self.write(pickle.EMPTY_TUPLE + pickle.NEWOBJ)
        self.save(value.state)
        self.write(pickle.BUILD)

    dispatch = pickle._Pickler.dispatch | {
        Named: save_name,
        Tensor: save_tensor,
        Module: save_module,
    }


def pickled(value):
    file = io.BytesIO()
    _Pickler(file, protocol=2).dump(value)
    return file.getvalue()


def zipped(content, storages=None, compression=zipfile.ZIP_STORED, order=b"little"):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("net/data.pkl", content)
        archive.writestr("net/byteorder", order)
        for key, data in (storages or {"0": VALUES.tobytes()}).items():
            archive.writestr(f"net/data/{key}", data)
    return file.getvalue()


def saved(tensor, **options):
    return zipped(pickled({"x": tensor}), **options)


def legacy(value, keys=("0",), storages=None, little_endian=True):
    parts = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": little_endian}, value, list(keys)]
    content = b"".join(pickled(part) for part in parts)
    return content + (struct.pack("<q", 24) + VALUES.tobytes() if storages is None else storages)


WHOLE = Tensor(Storage(), 0, (4, 6), (6, 1))


def test_a_tensor_is_a_view_of_its_storage():
    for tensor, expected in (
        (WHOLE, VALUES.reshape(4, 6)),
        (Tensor(Storage(), 6, (6, 3), (1, 6)), VALUES[6:].reshape(3, 6).T),
        (Tensor(Storage(), 23, (), ()), VALUES[23]),
        (Tensor(Storage(), 0, (0, 6), (6, 1)), np.zeros((0, 6))),
        (Tensor(Storage(), 0, (1, 3), (0, 2)), VALUES[None, 0:6:2]),
    ):
        for data in (saved(tensor), legacy({"x": tensor})):
            np.testing.assert_array_equal(parse(data).arrays["x"], expected)


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("HalfStorage", np.float16), ("BFloat16Storage", ml_dtypes.bfloat16), ("LongStorage", "<i8")],
)
def test_numbers_of_other_kinds(kind, dtype):
    storages = {"0": VALUES.astype(dtype).tobytes()}
    data = saved(Tensor(Storage(kind=kind), 0, (24,), (1,)), storages=storages)
    np.testing.assert_array_equal(parse(data).arrays["x"].astype(np.float32), VALUES)


def test_state_dicts_in_checkpoints_and_modules():
    inner = Module({"weight": WHOLE})
    for value, name in (
        ({"epoch": 3, "state_dict": {"x": WHOLE}}, "x"),
        ({"model": {"state_dict": {"x": WHOLE}}, "best": WHOLE}, "x"),
        (Module({"y": WHOLE}, {"conv": inner}), "conv.weight"),
        ({"model": Module({"y": WHOLE}, {"conv": inner})}, "conv.weight"),
    ):
        content = parse(zipped(pickled(value)))
        assert name in content.arrays
        assert "best" not in content.arrays
        assert content.class_name == ("net.Net" if name == "conv.weight" else "")


def test_a_module_in_itself_is_read_once():
    module = Module({"x": WHOLE})
    module.state["_modules"]["again"] = module
    assert list(parse(zipped(pickled(module))).arrays) == ["x"]


@pytest.mark.parametrize(
    ("tensor", "reason"),
    [
        (Tensor(Storage(), 1, (4, 6), (6, 1)), "reaches to element 25 of storage 0, which has 24"),
        (Tensor(Storage(), -1, (4,), (1,)), "no offset of 0 or more"),
        (Tensor(Storage(), True, (4,), (1,)), "no offset of 0 or more"),
        (Tensor(Storage(), 0, (4,), (-1,)), "must be numbers of 0 or more"),
        (Tensor(Storage(), 0, (-4,), (1,)), "must be numbers of 0 or more"),
        (Tensor(Storage(), 0, (2**60,), (1,)), r"below 2\^40"),
        (Tensor(Storage(), 0, (2**39, 2**39), (0, 0)), "overlaps itself"),
        (Tensor(Storage(), 0, (4, 6), (5, 1)), "overlaps itself"),
        (Tensor(Storage(), 0, (4, 6), (1,)), r"strides \(1,\)"),
        (Tensor(Storage(), 0, (1,) * 9, (1,) * 9), "up to 8 numbers"),
        (Tensor(Storage(count=23), 0, (4,), (1,)), "has 96 bytes; 23 elements of float32 need 92"),
        (Tensor(Storage(count=2**50), 0, (4,), (1,)), "has 96 bytes"),
        (Tensor(Storage(count=-1), 0, (4,), (1,)), "no storage that can be read"),
        (Tensor(Storage(kind="QInt8Storage"), 0, (4,), (1,)), "tensors of torch.QInt8Storage"),
        (Tensor(Storage("7"), 0, (4,), (1,)), "has no storage 7"),
        (Tensor("0", 0, (4,), (1,)), "no storage that can be read"),
    ],
)
def test_a_tensor_that_is_no_part_of_its_storage_is_refused(tensor, reason):
    with pytest.raises(ValueError, match=reason):
        parse(saved(tensor))


def test_archives_that_pytorch_does_not_write_are_refused():
    zeros = {"0": bytes(2**20)}
    for data, reason in (
        (saved(WHOLE, storages=zeros, compression=zipfile.ZIP_DEFLATED), "entries unpack to 1,0"),
        (saved(WHOLE, order=b"big"), "not little-endian"),
        (saved(WHOLE)[:-30], "zip archive is damaged"),
        (saved(WHOLE).replace(VALUES.tobytes(), bytes(96)), "zip archive is damaged: Bad CRC"),
    ):
        with pytest.raises(ValueError, match=reason):
            parse(data)


def test_damaged_legacy_files_are_refused():
    tensor = {"x": WHOLE}
    for data, reason in (
        (legacy(tensor, little_endian=False), "not little-endian"),
        (legacy(tensor, storages=struct.pack("<q", 2**62)), "ends behind the file's end"),
        (legacy(tensor, storages=struct.pack("<q", -1)), "ends behind the file's end"),
        (legacy(tensor, keys=["0", "1"]), "storage 1 is not used"),
        (legacy(tensor, keys=[]), "has no storage 0"),
        (legacy(tensor, keys=[0]), "list of storages is damaged"),
        (legacy(tensor)[:60], "pickle"),
        (legacy(tensor).replace(pickled(1001), pickled(1000)), "version of PyTorch"),
    ):
        with pytest.raises(ValueError, match=reason):
            parse(data)


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


def test_what_a_pickle_would_run_is_only_recorded(tmp_path):
    payload = Payload(tmp_path / "made")
    for protocol in range(6):
        value = read_pickle(io.BytesIO(pickle.dumps(payload, protocol)))
        assert isinstance(value, Call)
    with pytest.raises(ValueError, match="holds no state dict"):
        parse(zipped(pickle.dumps(payload)))
    system = b"cos\nsystem\n(S'touch " + bytes(tmp_path / "made") + b"'\ntR."
    assert read_pickle(io.BytesIO(system)).function == Global("os.system")
    assert not (tmp_path / "made").exists()


def test_values_of_pickles():
    value = {"a": [1, 2.5, None, True, "é", b"b", (1, 2, 3, 4), 2**70], 3: {}, "s": {7}}
    for protocol in range(6):
        read = read_pickle(io.BytesIO(pickle.dumps(value, protocol)))
        if protocol >= 4:  # older ones make sets and bytes by calls
            assert read == {**value, "s": [7]}
        assert read["a"][:5] == value["a"][:5]
        assert read["a"][6:] == value["a"][6:]
    ordered = collections.OrderedDict(a=1)
    assert read_pickle(io.BytesIO(pickle.dumps(ordered, 2))) == {"a": 1}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "pickle exhausted"),
        (b"N", "pickle exhausted"),
        (b".", "takes a value that is not there"),
        (b"0.", "takes a value that is not there"),
        (b"t.", "no mark"),
        (b"(N0.", "takes a value that is not there"),
        (b"Na.", "takes a value|no container"),
        (b"NNa.", "no container"),
        (b"}N]Ns.", "no container"),
        (b"}(Nu.", "key without a value"),
        (b"})Ns.", "neither text nor a number"),
        (b"h\x00.", "recalls a value"),
        (b"q\x00.", "keeps a value"),
        (b"NN\x93.", "by another value than text"),
        (b"(c__main__\nX\no.", "operation OBJ"),
        (b"\x82\x01.", "operation EXT1"),
        (b"X\xff\xff\xff\x7fabc.", "expected 2147483647 bytes"),
        (b"\x8b\xff\xff\xff\x7f1.", "not enough data"),
    ],
)
def test_damaged_pickles_are_refused(data, reason):
    with pytest.raises(ValueError, match=reason):
        read_pickle(io.BytesIO(data))


def test_a_large_number_in_the_memo_takes_no_memory():
    assert read_pickle(io.BytesIO(b"Nr\xff\xff\xff\x7f.")) is None


def test_deep_and_shared_values_take_no_time():
    depth = 10**5
    nested = read_pickle(io.BytesIO(b")" + b"\x85" * depth + b"."))
    assert len(nested) == 1
    del nested
    shared = read_pickle(io.BytesIO(b")" + b"q\0h\0\x86" * 60 + b"."))  # 2^60 leaves
    with pytest.raises(ValueError, match="no offset of 0 or more"):
        parse(saved(Tensor(Storage(), shared, (4,), (1,))))

"""Readers of safetensors, HDF5 and NumPy archives, and how a format is recognised."""

import io
import json
import pathlib
import zipfile

import h5py
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from jaxcovid.weights.files import read, weight_file
from jaxcovid.weights.files.read import parse, read_weights

ARRAYS = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(2, np.float16)}


def tensors(header, data=b""):
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def archive(entries, compression=zipfile.ZIP_DEFLATED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as output:
        for name, content in entries.items():
            output.writestr(name, content)
    return file.getvalue()


def npy(array, **options):
    file = io.BytesIO()
    np.lib.format.write_array(file, array, **options)
    return file.getvalue()


def hdf5(fill):
    file = io.BytesIO()
    with h5py.File(file, "w") as output:
        fill(output)
    return file.getvalue()


def npz(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def same_arrays(content, expected):
    assert content.arrays.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(content.arrays[name], array)


def test_arrays_of_each_format():
    h5 = hdf5(lambda file: [file.create_dataset(name, data=a) for name, a in ARRAYS.items()])
    for data in (safetensors.numpy.save(ARRAYS), npz(**ARRAYS), h5):
        same_arrays(parse(data), ARRAYS)
    same_arrays(parse(archive({"config.json": "{}", "model.weights.h5": h5})), ARRAYS)


def test_bfloat16_of_safetensors():
    data = np.array([1, -2.5], ml_dtypes.bfloat16).tobytes()
    header = {"x": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}
    np.testing.assert_array_equal(parse(tensors(header, data)).arrays["x"], [1, -2.5])


def test_fortran_order_of_numpy():
    array = np.asfortranarray(ARRAYS["a.weight"])
    same_arrays(parse(npz(x=array)), {"x": array})


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ({"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, "no valid safetensors"),
        ({"x": {"dtype": "F32", "shape": [2**62], "data_offsets": [0, 4]}}, "no valid safetensors"),
        ({"x": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, "no valid safetensors"),
        ({"x": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}}, "of type F8_E4M3"),
    ],
)
def test_damaged_safetensors_are_refused(header, reason):
    with pytest.raises(ValueError, match=reason):
        parse(tensors(header, bytes(4)))


def test_archives_that_unpack_to_too_much_are_refused(monkeypatch):
    monkeypatch.setattr("jaxcovid.weights.files.npz.MOST_BYTES", 1000)
    with pytest.raises(ValueError, match=r"unpack to 8,\d+ bytes; at most 1,000 are accepted"):
        parse(archive({"x.npy": npy(np.zeros(1000))}))


def test_numpy_arrays_of_something_else_than_numbers_are_refused():
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,), }\n"
    large = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(8)
    for content, reason in (
        (npy(np.array([{}], object), allow_pickle=True), "object, no numbers"),
        (npy(np.array(["a"])), "<U1, no numbers"),
        (large, "cannot reshape"),
        (b"\x93NUMPY\x01\x00\x08\x00{'descr'", "no readable array"),
        (b"nonsense", "no readable array"),
    ):
        with pytest.raises(ValueError, match=reason):
            parse(archive({"x.npy": content}))


def test_hdf5_reads_only_plain_arrays_of_its_own(tmp_path):
    outside = tmp_path / "outside.h5"
    with h5py.File(outside, "w") as file:
        file["secret"] = np.arange(3)

    def plain(file):
        file["x"] = np.ones(2)
        file["text"] = "text"

    def link(file):
        plain(file)
        file["link"] = h5py.ExternalLink(str(outside), "/secret")

    raw = [(str(tmp_path / "raw"), 0, 24)]
    (tmp_path / "raw").write_bytes(bytes(24))
    for fill in (
        lambda file: file.create_dataset("x", data=np.zeros(9), compression="gzip"),
        lambda file: file.create_dataset("x", (3,), "f8", external=raw),
        lambda file: file.create_dataset("x", (10**9,), "f8", chunks=(10**6,)),
    ):
        with pytest.raises(ValueError, match="x is not stored in one piece, as Keras does"):
            parse(hdf5(fill))
    with pytest.raises(ValueError, match="no HDF5 file that can be read"):
        parse(hdf5(link))
    same_arrays(parse(hdf5(plain)), {"x": np.ones(2)})


def test_hdf5_arrays_larger_than_the_file_are_refused():
    data = hdf5(lambda file: file.create_dataset("x", data=np.ones((5, 1021), np.float32)))
    size = (1021).to_bytes(8, "little")
    assert data.count(size) >= 1
    with pytest.raises(ValueError, match=r"said to have [\d,]+ bytes, and the file has"):
        parse(data.replace(size, (2**40).to_bytes(8, "little")))


@pytest.mark.parametrize("content", [b"", b"PK", b"\x89HDF\r\n\x1a\n", b"GIF89a", b"{}"])
def test_files_of_no_format_are_refused_by_their_name(content, tmp_path):
    path = tmp_path / "weights.bin"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"weights\.bin: it"):
        read_weights(path)


def test_an_archive_of_pictures_is_refused():
    with pytest.raises(ValueError, match=r"none of the formats that are read: PyTorch \(.pth"):
        parse(archive({"picture.png": b"x"}))
    with pytest.raises(ValueError, match="no HDF5 file that can be read"):
        parse(archive({"model.weights.h5": b"x"}))


def test_a_large_file_is_not_read(tmp_path, monkeypatch):
    path = tmp_path / "large.npz"
    with path.open("wb") as file:
        file.truncate(weight_file.MOST_BYTES + 1)
    monkeypatch.setattr(pathlib.Path, "read_bytes", None)
    with pytest.raises(ValueError, match="has 1,073,741,825 bytes; at most 1,073,741,824"):
        read_weights(path)


def test_settings_beside_a_file_are_read(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, x=np.ones(1))
    (tmp_path / "cfg.json").write_text('{"a": 1}')
    assert read.read_weights(path).content.settings == {"cfg.json": {"a": 1}}
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ValueError, match="it holds a list, no object"):
        read_weights(path)

"""Feeds mutations of valid files to one reader, in a process of little memory.

python tests/fuzz_child.py READER EXAMPLES SEED FOLDER

Every input is written to FOLDER/input before it is read, so that a reader that crashes leaves it
there. Prints how each ended, as JSON; ends with an error at the first that ends neither in a result
nor in an error that the reader documents.
"""

import collections
import contextlib
import copy
import csv
import faulthandler
import gzip
import io
import json
import os
import pathlib
import resource
import struct
import sys
import warnings
import zipfile
import zlib

import h5py
import numpy as np
from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from hypothesis import strategies as st
from PIL import Image

MORE_MEMORY = 2**29  # bytes beyond what the process has at its start
SECONDS = 20  # for one input

GRAY = np.random.default_rng(0).integers(0, 256, (24, 32), dtype=np.uint8)


# Mutations of bytes.

BYTE_CHANGES = ("flip", "number", "insert", "delete", "double", "cut", "splice")


@st.composite
def mutated(draw, contents):
    """One of the contents, with a few bytes changed, moved, left out or taken from another."""
    data = bytearray(draw(st.sampled_from(contents)))
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 4]))):
        # Headers come first, and decide most.
        end = draw(st.sampled_from([16, 64, 256, 10**9]))
        at = draw(st.integers(0, max(0, min(end, len(data)) - 1)))
        length = draw(st.integers(1, 40))
        kind = draw(st.sampled_from(BYTE_CHANGES))
        if kind == "flip" and data:
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "number":
            layout = draw(st.sampled_from(["B", "<H", ">H", "<I", ">I"]))
            most = 256 ** struct.calcsize(layout) - 1
            value = draw(st.sampled_from([0, 1, 2, most // 2, most // 2 + 1, most - 1, most]))
            data[at : at + struct.calcsize(layout)] = struct.pack(layout, value)
        elif kind == "insert":
            data[at:at] = draw(st.binary(min_size=1, max_size=40))
        elif kind == "delete":
            del data[at : at + length]
        elif kind == "double":
            data[at:at] = data[at : at + length] * draw(st.sampled_from([1, 2, 100]))
        elif kind == "cut":
            del data[at:]
        else:
            other = draw(st.sampled_from(contents))
            start = draw(st.integers(0, len(other)))
            data[at:] = other[start:]
    return bytes(data)


# Images.


def pictures():
    """Files of each format and kind of pixels."""
    rgb = np.dstack([GRAY, 255 - GRAY, GRAY[::-1]])
    deep = GRAY.astype(np.uint16) * 250
    alpha = np.dstack([rgb, np.full_like(GRAY, 255)])
    for array, formats in (
        (GRAY, ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF")),
        (rgb, ("PNG", "JPEG", "BMP", "TIFF", "WEBP")),
        (deep, ("PNG", "TIFF")),
        (alpha, ("PNG", "TIFF", "WEBP")),
    ):
        for name in formats:
            yield name, Image.fromarray(array), {}
    yield "JPEG", Image.fromarray(rgb), {"progressive": True}
    yield "PNG", Image.fromarray(rgb).convert("P"), {}
    yield "PNG", Image.fromarray(GRAY).convert("1"), {}
    for more in (GRAY, 255 - GRAY):
        yield (
            "GIF",
            Image.fromarray(GRAY),
            {"save_all": True, "append_images": [Image.fromarray(more)]},
        )
    for compression in ("tiff_deflate", "tiff_lzw", "jpeg", "packbits"):
        yield "TIFF", Image.fromarray(rgb), {"compression": compression}
    yield "TIFF", Image.fromarray(GRAY).convert("1"), {"compression": "group4"}


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@st.composite
def mutated_png(draw, files):
    """A PNG whose chunks were changed and have the right checksums all the same."""
    data = draw(st.sampled_from(files))
    chunks, at = [], 8
    while at < len(data):
        (size,) = struct.unpack_from(">I", data, at)
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    place = draw(st.integers(0, len(chunks) - 1))
    kind, content = chunks[place]
    kind = draw(st.sampled_from([kind, kind, kind, b"zTXt", b"iCCP", b"tRNS", b"PLTE", b"acTL"]))
    if kind == b"IDAT" and draw(st.booleans()):
        content = zlib.compress(draw(mutated([zlib.decompress(content)])))
    else:
        content = draw(mutated([content, b"key\0\0" + zlib.compress(bytes(2**20))]))
    chunks[place : place + draw(st.integers(0, 1))] = [(kind, content)]
    return data[:8] + b"".join(chunk(*of) for of in chunks)


def image_reader(folder):
    from jaxcovid.data import decoding

    files = []
    for name, picture, options in pictures():
        file = io.BytesIO()
        picture.save(file, name, **options)
        files.append(file.getvalue())
    pngs = [data for data in files if data.startswith(b"\x89PNG")]

    def read(data):
        decoding.decode_gray(data)
        decoding.colour_of(data)

    return st.one_of(mutated(files), mutated(files), mutated_png(pngs)), read, decoding.ImageError


# DICOM.

META = b"\2\0\0\0UL\4\0"
NATIVE, RLE, JPEG, LOSSLESS, JPEG_LS, DEFLATED = (
    b"1.2.840.10008.1.2.1\0",
    b"1.2.840.10008.1.2.5\0",
    b"1.2.840.10008.1.2.4.50",
    b"1.2.840.10008.1.2.4.70",
    b"1.2.840.10008.1.2.4.80",
    b"1.2.840.10008.1.2.1.99",
)


def element(tag, vr, value):
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr
    if vr == b"OB" and value.startswith(b"\xfe\xff\0\xe0"):  # compressed: of unknown length
        return head + bytes(2) + b"\xff" * 4 + value + b"\xfe\xff\xdd\xe0" + bytes(4)
    if vr in (b"OW", b"OB", b"SQ", b"UN", b"UT"):
        return head + b"\0\0" + struct.pack("<I", len(value)) + value
    return head + struct.pack("<H", len(value) & 0xFFFF) + value


def dicom_file(syntax, elements):
    meta = element(0x00020010, b"UI", syntax)
    body = b"".join(element(*of) for of in elements)
    if syntax == DEFLATED:
        packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        body = packer.compress(body) + packer.flush()
    return bytes(128) + b"DICM" + META + struct.pack("<I", len(meta)) + meta + body


def slices():
    """Transfer syntax and elements of a few files."""
    import imagecodecs
    from pydicom.encaps import encapsulate

    def numbers(*values):
        return struct.pack(f"<{len(values)}H", *values)

    def tags(pixels, bits=16, **more):
        rest = {
            0x00080060: (b"CS", b"CT"),
            0x00100020: (b"LO", b"patient "),
            0x0020000E: (b"UI", b"1.2.3\0"),
            0x00280002: (b"US", numbers(1)),
            0x00280004: (b"CS", b"MONOCHROME2 "),
            0x00280008: (b"IS", b"1 "),
            0x00280010: (b"US", numbers(24)),
            0x00280011: (b"US", numbers(32)),
            0x00280100: (b"US", numbers(bits)),
            0x00280101: (b"US", numbers(bits)),
            0x00280102: (b"US", numbers(bits - 1)),
            0x00280103: (b"US", numbers(0)),
            0x00281050: (b"DS", b"128 "),
            0x00281051: (b"DS", b"200 "),
            0x00281052: (b"DS", b"-1024 "),
            0x00281053: (b"DS", b"2 "),
            **more.pop("other", {}),
            0x7FE00010: (b"OB" if bits == 8 else b"OW", pixels),
        }
        return [(tag, *of) for tag, of in sorted(rest.items())]

    film = {0x00080060: (b"CS", b"DX"), 0x00280004: (b"CS", b"MONOCHROME1 ")}
    # A table in place of the window: 256 values of 8 bits.
    table = b"\xfe\xff\0\xe0" + struct.pack("<I", 0xFFFFFFFF)
    table += element(0x00283002, b"US", numbers(256, 0, 8))
    table += element(0x00283006, b"OW", numbers(*range(256)))
    table += b"\xfe\xff\x0d\xe0\0\0\0\0"
    deep = (GRAY.astype(np.uint16) * 8).tobytes()
    yield NATIVE, tags(deep)
    yield DEFLATED, tags(deep)
    yield NATIVE, tags(deep, other=film)
    yield NATIVE, tags(GRAY.tobytes(), 8, other=film | {0x00283010: (b"SQ", table)})
    yield NATIVE, tags(GRAY.tobytes(), 8, other=film | {0x00283000: (b"SQ", table)})
    file = io.BytesIO()
    Image.fromarray(GRAY).save(file, "JPEG")
    yield JPEG, tags(encapsulate([file.getvalue()]), 8, other=film)
    runs = b"".join(bytes([31]) + row.tobytes() for row in GRAY)
    header = struct.pack("<16I", 1, 64, *[0] * 14)
    yield RLE, tags(encapsulate([header + runs]), 8, other=film)
    high = GRAY.astype(np.uint16) * 8
    frame = imagecodecs.jpeg8_encode(high, lossless=True, bitspersample=16)
    yield LOSSLESS, tags(encapsulate([frame]), other={0x00280120: (b"US", numbers(0))})
    yield JPEG_LS, tags(encapsulate([imagecodecs.jpegls_encode(high)]))
    # Two frames, whose rescale values and orientation stand in functional groups.
    group = b"\xfe\xff\0\xe0" + struct.pack("<I", 0xFFFFFFFF)
    for tag, inner in (
        (0x00209116, element(0x00200037, b"DS", b"1\\0\\0\\0\\1\\0 ")),
        (0x00289145, element(0x00281052, b"DS", b"0 ") + element(0x00281053, b"DS", b"1 ")),
    ):
        item = b"\xfe\xff\0\xe0" + struct.pack("<I", len(inner)) + inner
        group += element(tag, b"SQ", item)
    group += b"\xfe\xff\x0d\xe0\0\0\0\0"
    shared = {0x00280008: (b"IS", b"2 "), 0x52009229: (b"SQ", group)}
    yield NATIVE, tags(deep + deep, other=shared)


VALUES = [
    *(b"", b"\0\0", b"\1\0", b"\xff\xff", b"\x40\x1f", b"MONOCHROME1 ", b"PALETTE COLOR ", b"MR"),
    *(
        b"0 ",
        b"-1",
        b"nan ",
        b"1e999 ",
        b"1e308 ",
        b"1\\2 ",
        b"x ",
        b"99999999999 ",
        b"\xe9\xff" * 40,
    ),
]

ELEMENT_CHANGES = ("value", "value", "value", "bytes", "vr", "tag", "drop", "double")


@st.composite
def mutated_dicom(draw, files):
    """A file with elements changed, of other types, left out, doubled or moved to another tag."""
    syntax, elements = draw(st.sampled_from(files))
    elements = list(elements)
    syntax = draw(
        st.sampled_from([*[syntax] * 6, NATIVE, RLE, JPEG, LOSSLESS, DEFLATED, b"1.2\0", b""])
    )
    tags = st.sampled_from([tag for tag, _, _ in elements])
    vrs = st.sampled_from(b"US SS UL FD DS IS CS LO UI OB OW SQ UN AT XX".split())
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(elements) - 1))
        tag, vr, value = elements[place]
        kind = draw(st.sampled_from(ELEMENT_CHANGES))
        if kind == "value":
            elements[place] = (tag, vr, draw(st.sampled_from(VALUES)))
        elif kind == "bytes":
            elements[place] = (tag, vr, draw(mutated([value])))
        elif kind == "vr":
            elements[place] = (tag, draw(vrs), value)
        elif kind == "tag":
            elements[place] = (draw(tags), vr, value)
        elif kind == "double":
            elements.append((tag, vr, value))
        elif len(elements) > 1:
            del elements[place]
    return dicom_file(syntax, elements)


def dicom_reader(folder):
    from jaxcovid.data import decoding, dicom

    files = list(slices())
    path = folder / "input"

    def read(data):
        dicom.header_of(path)
        if decoding.is_dicom(data):
            frames = dicom.open_frames(data)
            for index in range(min(len(frames), 3)):
                frames.gray(index)

    whole = [dicom_file(*of) for of in files]
    whole += [data[132:] for data in whole[:3]]  # without preamble
    return st.one_of(mutated(whole), mutated_dicom(files)), read, decoding.ImageError


# Volumes.


def volume_reader(folder):
    """Reads each as NIfTI, packed and not, and as an array."""
    import nibabel

    from jaxcovid.data import decoding, volumes

    values = GRAY.astype(np.int16)[..., None] * np.array([1, 2], np.int16) - 1000
    files = [
        kind(values, np.diag([-1.0, 2, 3, 1])).to_bytes()
        for kind in (nibabel.Nifti1Image, nibabel.Nifti2Image)
    ]
    arrays = []
    for array in (values.T, values[..., 0].astype(np.float32)):
        file = io.BytesIO()
        np.save(file, array)
        arrays.append(file.getvalue())
    packed = [gzip.compress(data, mtime=0) for data in files]

    def read(data):
        name = "x.npy" if data[1:6] == b"NUMPY" else "x.nii"
        path = folder / (name + ".gz" if data[:2] == b"\x1f\x8b" else name)
        path.write_bytes(data)
        assert volumes.is_volume(path, None)
        volume = volumes.open_volume(path)
        for index in range(min(len(volume), 3)):
            assert volume.gray(index).dtype == np.uint8

    whole = st.one_of(mutated(files), mutated(arrays), mutated(packed))
    repacked = mutated(files).map(lambda data: gzip.compress(data, mtime=0))
    return st.one_of(whole, repacked), read, decoding.ImageError


# Tables.

CELLS = [
    *(
        "",
        " ",
        "..",
        "/",
        "/etc/passwd",
        "../a.png",
        "a.png",
        "a/../../b.png",
        "link/x",
        "a" * 5000,
    ),
    *("\0", "\n", '"', "train", "x" * 140_000, "nan", "inf", "-1", "1e999", "\ud83d", "é", "=1+1"),
]

TABLE_CHANGES = ("cell", "cell", "text", "short", "long", "row", "swap", "column", "gone")


@st.composite
def mutated_table(draw, tables):
    """A table with cells, rows and columns changed, doubled, left out or moved, or its bytes."""
    text = draw(st.sampled_from(tables))
    if draw(st.integers(0, 3)) == 0:
        return draw(mutated([text.encode()]))
    rows = [line.split(",") for line in text.splitlines()]
    for _ in range(draw(st.integers(1, 4))):
        row = rows[draw(st.integers(0, len(rows) - 1))]
        place = draw(st.integers(0, len(row) - 1)) if row else 0
        kind = draw(st.sampled_from(TABLE_CHANGES))
        if kind == "cell":
            row[place : place + 1] = [draw(st.sampled_from(CELLS))]
        elif kind == "text":
            row[place : place + 1] = [draw(st.text(max_size=20))]
        elif kind == "short":
            del row[place:]
        elif kind == "long":
            row += ["more"] * draw(st.sampled_from([1, 1000]))
        elif kind == "row":
            rows += [row] * draw(st.sampled_from([1, 30]))
        elif kind == "swap":
            rows[0], rows[-1] = rows[-1], rows[0]
        elif kind == "column":
            for other in rows:
                del other[place : place + 1]
        elif len(rows) > 1:
            rows.remove(row)
    text = draw(st.sampled_from(["\n", "\r\n", "\r"])).join(map(",".join, rows))
    if draw(st.booleans()):
        file = io.StringIO()
        csv.writer(file).writerows(rows)
        text = file.getvalue()
    data = text.encode(errors="surrogatepass")
    return gzip.compress(data) if draw(st.integers(0, 9)) == 0 else data


def table_reader(folder):
    """Reads each table as a user's own and as one of each published data set."""

    from jaxcovid.data.builders import chestxray14, chexpert, covid_chestxray, covid_ct
    from jaxcovid.data.builders import folder as folders

    for name in "abcd":
        (folder / f"{name}.png").touch()
    (folder / "link").symlink_to("/etc")
    findings = ",".join(chexpert.FINDINGS)
    zeros = ",".join("0" for _ in chexpert.FINDINGS)
    own = "path,label,patient,split\na.png,x,1,train\nb.png,y,2,train\nc.png,x,3,test\n"
    tables = [
        own,
        own,
        own,
        "path,label\n" + "".join(f"./{'abcd'[i % 4]}.png,{i % 2}\n" for i in range(4)),
        f"{','.join(chestxray14._COLUMNS)}\na.png,Mass|Edema,1,61Y,M,PA\nb.png,Hernia,2,,F,AP\n",
        f"Path,Sex,Age,Frontal/Lateral,AP/PA,{findings}\n"
        f"top/patient1/a.png,Male,60,Frontal,AP,{zeros}\n",
        "patientid,sex,age,finding,view,modality,folder,filename\n"
        "1,M,61,COVID-19,PA,X-ray,.,a.png\n2,F,,Pneumonia,AP,X-ray,.,b.png\n",
        "File name,Patient ID,Age,Captions,,\na.png,Patient 1,41,a caption,,\n",
    ]
    readers = (
        lambda path: [row["path"] for row in folders.read_rows(None, str(path))],
        lambda path: [row["path"] for row in chestxray14.read_labels(path)],
        lambda path: [row["path"] for row in chexpert.read_labels(path)],
        lambda path: [row["path"] for row in covid_chestxray.read_rows(str(path.parent))],
        lambda path: covid_ct._read_patients(path.parent, "COVID") and [],
    )
    names = ("input.csv", "input.csv", "input.csv.gz", "metadata.csv", "COVID-CT-MetaInfo.csv")

    def read(data):
        done = 0
        for reader, name in zip(readers, names, strict=True):
            path = folder / name
            gzipped = data[:2] == b"\x1f\x8b"
            path.write_bytes(gzip.compress(data) if name.endswith("gz") and not gzipped else data)
            with contextlib.suppress(ValueError, OSError):
                for found in reader(path):
                    inside = pathlib.Path(os.path.normpath(found)).is_relative_to(folder)
                    assert inside, f"{found} is outside of the folder"
                done += 1
        if not done:
            raise ValueError("no reader takes it")

    return mutated_table(tables), read, (ValueError, OSError)


# What a workdir says of itself.

JSON_VALUES = [
    *(None, True, 0, -1, 10**30, 1.5, float("nan"), "", "../x", "\ud800", [], {}, [[]], {"a": 1}),
    *([1, "x"], {"step": 1}, "deep_cxr_net", "multiclass", "lungs"),
]


@st.composite
def mutated_json(draw, contents):
    """JSON with values replaced, left out, added, wrapped or nested, or its bytes changed."""
    text = draw(st.sampled_from(contents))
    kind = draw(st.integers(0, 9))
    if kind < 2:
        return draw(mutated([text.encode()]))
    if kind == 2:
        return b"[" * draw(st.sampled_from([3, 10**3, 10**6]))
    tree = json.loads(text)
    for _ in range(draw(st.integers(1, 3))):
        places = []
        queue = [tree]
        while queue:
            node = queue.pop()
            keys = list(node if isinstance(node, dict) else range(len(node)))
            places += [(node, key) for key in keys]
            queue += [node[key] for key in keys if isinstance(node[key], dict | list)]
        if not places:
            break
        node, key = draw(st.sampled_from(places))
        change = draw(st.sampled_from(["value", "value", "drop", "wrap", "add"]))
        if change == "value":
            node[key] = copy.deepcopy(draw(st.sampled_from(JSON_VALUES)))
        elif change == "drop":
            del node[key]
        elif change == "wrap":
            node[key] = [node[key]]
        elif isinstance(node, dict):
            node[draw(st.text(max_size=5))] = node[key]
        else:
            node.append(node[key])
    return json.dumps(tree).encode()


def workdir_reader(folder):
    """Reads each as `run.json`, as the facts of a checkpoint or as one of two files of arrays."""
    import jax

    from configs import default
    from jaxcovid.inference import out_of_distribution, predictor, training_facts
    from jaxcovid.workdir import checkpoint_facts, run

    jax.devices()  # what starting JAX takes is no reader's memory
    facts_of_run = {
        "format_version": run.FORMAT_VERSION,
        "config": json.loads(default.get_config("debug").to_json()),
        "dataset": {
            "name": "folder/blobs",
            "digest": "0" * 64,
            "modality": "CT",
            "window": [-600.0, 1500.0],
            "class_names": ["COVID-19", "normal"],
            "citation": "",
        },
        "outputs": ["COVID-19"],
        "parts": {},
        "versions": {"jaxcovid": "0.1.0", "jax": "0.10.2"},
    }
    entry = {"auc": 0.7, "loss": 0.6, "temperature": 1.2, "thresholds": {"youden": 0.4}}
    facts = {
        "format_version": checkpoint_facts.FORMAT_VERSION,
        "step": 3,
        "checksums": {"weights": {"['params']['head']": 17}, "optimizer": {}},
        "history": [{"step": 2, **entry}, {"step": 3, **entry}],
    }
    texts = [json.dumps(facts_of_run), json.dumps(facts)]
    few = np.ones(3)
    out_of_distribution.Detector(few, few, few, np.eye(3), 1.0, 16.0).save(folder)
    labels, counts = np.arange(20) < 10, training_facts.Counts(10, 20)
    training_facts.TrainingFacts(np.zeros((20, 10)), labels, counts, counts).save(folder)
    names = out_of_distribution.FILE, training_facts.FILE
    archives = [(folder / name).read_bytes() for name in names]
    metadata = folder / checkpoint_facts.FOLDER / "3" / "facts" / "metadata"
    metadata.parent.mkdir(parents=True)

    def read(data):
        if data[:1] == b"P":
            is_detector = b"precision" in data
            (folder / names[not is_detector]).write_bytes(data)
            if is_detector:
                out_of_distribution.load_detector(folder)
            else:
                training_facts.load_training_facts(folder)
        elif b'"checksums"' in data:
            metadata.write_bytes(data)
            _ = checkpoint_facts.read_facts(folder, 3).validation
            checkpoint_facts.open_checkpoint(folder)
        else:
            (folder / run.FILE).write_bytes(data)
            predictor.open_network(folder, run.Run.load(folder))

    documented = (run.WorkdirError, checkpoint_facts.CheckpointError, ValueError)
    return st.one_of(mutated_json(texts), mutated_json(texts), mutated(archives)), read, documented


# Weights of other packages.


@st.composite
def mutated_entry(draw, archives):
    """A zip archive of which one entry was changed and has the right checksum all the same."""
    entries = draw(st.sampled_from(archives))
    in_pickle = draw(st.booleans())
    names = [name for name in entries if in_pickle == name.endswith(".pkl")]
    changed = draw(st.sampled_from(names or [*entries]))
    if draw(st.booleans()):
        content = draw(mutated([entries[changed]]))
    else:  # other numbers
        seed = draw(st.integers(0, 2**32 - 1))
        content = np.random.default_rng(seed).bytes(len(entries[changed]))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as output:
        for name, data in {**entries, changed: content}.items():
            output.writestr(name, data)
    return file.getvalue()


def weight_reader(folder):
    import safetensors.numpy

    from jaxcovid.weights.converted import ConvertedWeights, Input, Origin
    from jaxcovid.weights.files.read import read_weights
    from jaxcovid.weights.recognise import recognise
    from jaxcovid.weights.sources.densenet import NETWORKS, DenseNetShape

    NETWORKS["narrow"] = DenseNetShape(4, (1, 2, 1, 1))
    golden = pathlib.Path(__file__).parent / "golden" / "weights"
    names = ("torchvision/*.*", "timm/module.pt", "torchxrayvision/module.pt", "*/*.ckpt")
    paths = [path for name in names for path in golden.glob(name) if path.name != "run.npz"]
    files = [path.read_bytes() for path in paths]
    hdf5 = io.BytesIO()
    with h5py.File(hdf5, "w") as output:
        for number in range(4):
            output[f"layers/conv2d_{number}/vars/0"] = np.ones((1, 1, 16, 64), np.float32)
    files.append(hdf5.getvalue())
    archives = []
    for path in paths:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                archives.append({name: archive.read(name) for name in archive.namelist()})
    converted = folder / "converted"
    arrays = {"params/norm/scale": np.ones(2, np.float32)}
    weights = ConvertedWeights(
        variables=arrays,
        backbone="densenet121",
        origin=Origin("a", "b", "c"),
        input=Input(1, 0, 1, (1,)),
    )
    weights.write(converted)
    text = (converted / "weights.json").read_text()
    small = safetensors.numpy.save(arrays)

    def read(data):
        if data[:1] == b"{":
            (converted / "weights.json").write_bytes(data)
            ConvertedWeights.read(converted)
            return
        (folder / "file").write_bytes(data)
        file = read_weights(folder / "file")
        with contextlib.suppress(ValueError):  # what can be read may be of no known network
            recognise(file).carry_out(file)

    strategy = st.one_of(
        mutated([*files, small]), mutated_entry(archives), mutated([small]), mutated_json([text])
    )
    return strategy, read, ValueError


def override_reader(folder):
    """Reads options of the command line that override the configuration."""
    from absl import flags
    from ml_collections import config_flags

    from configs import default

    config = default.get_config()
    keys = list(config.keys())
    keys += [
        f"{key}.{inner}" for key in keys if hasattr(config[key], "keys") for inner in config[key]
    ]
    values = [
        "",
        "1",
        "-1",
        "1e999",
        "nan",
        "()",
        "(1, 2",
        "[1,'a']",
        "None",
        "True",
        "x",
        "0x1",
        "1_0",
    ]
    name = st.one_of(st.sampled_from(keys), mutated([k.encode() for k in keys]).map(os.fsdecode))
    value = st.one_of(st.sampled_from(values), st.text(st.characters(codec="utf-8"), max_size=30))
    path = pathlib.Path(default.__file__)
    pair = st.tuples(name, value).map(lambda of: f"--config.{of[0]}={of[1]}")

    def read(data):
        found = flags.FlagValues()
        config_flags.DEFINE_config_file("config", None, "", found, lock_config=True)
        sys.argv = ["train", f"--config={path}:debug", os.fsdecode(data)]  # it reads them there
        found(sys.argv)

    refused = (flags.Error, AttributeError, KeyError, TypeError, ValueError)  # of ml_collections
    return pair.map(os.fsencode), read, refused


READERS = {
    "images": image_reader,
    "dicom": dicom_reader,
    "volumes": volume_reader,
    "tables": table_reader,
    "workdir": workdir_reader,
    "weights": weight_reader,
    "overrides": override_reader,
}


def causes(error):
    while error:
        yield error
        error = error.__cause__ or error.__context__


def main(name, examples, number, folder):
    folder = pathlib.Path(folder).resolve()
    folder.mkdir(parents=True)
    strategy, reader, documented = READERS[name](folder)
    counts = collections.Counter()
    warnings.simplefilter("ignore")
    faulthandler.enable()

    @seed(int(number))
    @settings(
        max_examples=int(examples),
        deadline=None,
        database=None,
        phases=[Phase.generate],
        verbosity=Verbosity.quiet,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def feed(data):
        (folder / "input").write_bytes(data)
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        try:
            reader(data)
            counts["read"] += 1
        except documented as error:
            for cause in causes(error):
                if isinstance(cause, MemoryError) or "nsufficient memory" in str(cause):
                    raise RuntimeError("a reader took too much memory") from error
            counts[type(error).__name__] += 1
        finally:
            faulthandler.cancel_dump_traceback_later()

    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MORE_MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    feed()
    print(json.dumps(counts))


if __name__ == "__main__":
    main(*sys.argv[1:])

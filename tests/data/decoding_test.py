import io
import resource
import struct
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from jaxcovid.data import decoding

RGB = np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8)


def encode(array, file_format="PNG", mode=None, **options):
    image = Image.fromarray(array)
    if mode:
        image = image.convert(mode)
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def animation(file_format):
    frames = [Image.fromarray(RGB), Image.fromarray(255 - RGB), Image.fromarray(RGB // 2)]
    file = io.BytesIO()
    frames[0].save(file, file_format, save_all=True, append_images=frames[1:])
    return file.getvalue()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_header(width, height):
    """A PNG whose header promises width x height px, with almost no data behind it."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = zlib.compress(b"\0" * 1000)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


def with_alpha(lowest):
    alpha = np.full((64, 80, 1), 255, np.uint8)
    alpha[3, 4] = lowest
    return np.concatenate([RGB, alpha], axis=2)


def luminance(rgb):
    return rgb.astype(np.float64) @ [0.299, 0.587, 0.114]


BAD = {
    "zero bytes": (b"", "0 bytes"),
    "text named .png": (b"version https://git-lfs.github.com/spec/v1\n", "no readable image"),
    "1x1": (encode(RGB[:1, :1]), "1 x 1 px is too small; at least 16"),
    "15 px high": (encode(RGB[:15]), "80 x 15 px is too small"),
    "CMYK": (encode(RGB, "JPEG", "CMYK"), "CMYK"),
    "animated GIF": (animation("GIF"), "animated GIF of 3 frames"),
    "animated PNG": (animation("PNG"), "animated PNG of 3 frames"),
    "several TIFF pages": (animation("TIFF"), "3 frames"),
    "transparent": (encode(with_alpha(254)), "alpha goes down to 254"),
    "transparent gray level": (encode(RGB[..., 0], transparency=7), "transparent"),
    "PNG cut in the middle": (encode(RGB)[:6000], "cut short or damaged"),
    "PNG without its end": (encode(RGB)[:-20], "cut short or damaged"),
    "PNG cut in the header": (encode(RGB)[:30], "no readable image"),
    "JPEG cut in the middle": (encode(RGB, "JPEG")[:2000], "cut short or damaged"),
    "JPEG without its end": (encode(RGB, "JPEG")[:-2], "cut short or damaged"),
    "progressive JPEG, cut": (encode(RGB, "JPEG", progressive=True)[:-500], "cut short or damaged"),
    "TIFF cut": (encode(RGB, "TIFF")[:2000], "cut short or damaged"),
    "floats": (encode(RGB[..., 0].astype(np.float32), "TIFF"), "float32"),
    "20,000 x 20,000": (png_header(20_000, 20_000), "400000000 pixels"),
    "unpacking text": (
        encode(RGB)[:33]
        + chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(10**8)))
        + encode(RGB)[33:],
        "no readable image",
    ),
    "JPEG of many scans": (
        encode(RGB, "JPEG")[:-2] + 200 * b"\xff\xda\0\x08\1\1\0\0\x3f\0" + b"\xff\xd9",
        "scans would take too long",
    ),
    "65 megapixels": (png_header(10_000, 6_500), "10000 x 6500 px are 65,000,000 pixels"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused_with_a_reason(name):
    data, reason = BAD[name]
    with pytest.raises(decoding.ImageError, match=reason):
        decoding.decode_gray(data)


def unusable(paths):
    """Of each file that cannot be used the reason."""
    reasons = {}
    for path in paths:
        try:
            decoding.read_usable(path)
        except decoding.ImageError as error:
            reasons[path] = str(error)
    return reasons


def test_both_decoders_must_read_a_file(tmp_path):
    png = encode(RGB)
    path = tmp_path / "a.png"
    path.write_bytes(png[:-12] + chunk(b"zTXt", b"\0\x7f") + png[-12:])
    assert decoding.decode_gray(path.read_bytes()).shape == (64, 80)
    assert "colours cannot be read" in unusable([path])[path]


def test_a_huge_file_is_not_read(tmp_path):
    path = tmp_path / "huge.png"
    with path.open("wb") as file:
        file.truncate(decoding.MAX_BYTES + 1)
    assert "268,435,457 bytes; at most 268,435,456" in unusable([path])[path]


def test_a_huge_image_is_refused_from_its_header():
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    with pytest.raises(decoding.ImageError):
        decoding.decode_gray(png_header(20_000, 20_000))
    assert time.process_time() - start < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 50_000


@pytest.mark.parametrize(
    "data",
    [
        encode(RGB),
        encode(RGB, "BMP"),
        encode(RGB, "TIFF"),
        encode(RGB, "WEBP", lossless=True),
        encode(with_alpha(255)),
    ],
    ids=["PNG", "BMP", "TIFF", "WebP", "opaque RGBA"],
)
def test_colour_becomes_luminance(data):
    gray = decoding.decode_gray(data)
    assert gray.dtype == np.uint8
    assert gray.shape == (64, 80)
    np.testing.assert_allclose(gray, luminance(RGB), atol=0.51)


def test_gray_stays_as_it_is():
    np.testing.assert_array_equal(decoding.decode_gray(encode(RGB[..., 1])), RGB[..., 1])


def test_black_and_white_and_palette_images_are_read():
    bits = decoding.decode_gray(encode(RGB, "PNG", "1"))
    assert set(np.unique(bits)) == {0, 255}
    palette = Image.fromarray(RGB).convert("P")
    expected = luminance(np.asarray(palette.convert("RGB")))
    for file_format in ("PNG", "GIF"):
        gray = decoding.decode_gray(encode(RGB, file_format, "P"))
        np.testing.assert_allclose(gray, expected, atol=0.51)


def test_jpeg_agrees_with_another_decoder():
    data = encode(np.repeat(np.repeat(RGB, 8, 0), 8, 1), "JPEG", quality=95)
    expected = luminance(np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
    assert np.abs(decoding.decode_gray(data) - expected).mean() < 1


def test_16_bit_gray_is_scaled_to_its_range():
    deep = np.linspace(1000, 5000, 64 * 80).round().astype(np.uint16).reshape(64, 80)
    gray = decoding.decode_gray(encode(deep))
    np.testing.assert_allclose(gray, (deep - 1000.0) / 4000 * 255, atol=0.51)
    assert (gray.min(), gray.max()) == (0, 255)
    np.testing.assert_array_equal(decoding.as_gray(deep), gray)
    assert not decoding.as_gray(np.full((20, 20), 700, np.uint16)).any()


def white_is_zero(tiff):
    """The file with PhotometricInterpretation 0 in place of 1."""
    entry = struct.pack("<HHIH", 262, 3, 1, 1)
    assert tiff.count(entry) == 1
    return tiff.replace(entry, struct.pack("<HHIH", 262, 3, 1, 0))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("compression", [None, "tiff_deflate", "tiff_lzw"])
def test_a_tiff_whose_zero_is_white_is_not_inverted(dtype, compression):
    ramp = np.linspace(0, np.iinfo(dtype).max, 64 * 80).astype(dtype).reshape(64, 80)
    black = decoding.decode_gray(encode(ramp, "TIFF", compression=compression))
    white = white_is_zero(encode(np.invert(ramp), "TIFF", compression=compression))
    np.testing.assert_array_equal(decoding.decode_gray(white), black)
    assert decoding.is_16_bit(white) == (dtype == np.uint16)


HOUNSFIELD = np.linspace(-1000, 400, 64 * 80).round().reshape(64, 80)


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_16_bit_hounsfield_units_go_through_the_window(file_format):
    data = encode((HOUNSFIELD + 1024).astype(np.uint16), file_format)
    assert decoding.is_16_bit(data)
    expected = np.clip((HOUNSFIELD + 1350) / 1500, 0, 1) * 255
    gray = decoding.decode_gray(data, hu_offset=-1024)
    np.testing.assert_allclose(gray, expected, atol=0.51)
    assert np.abs(decoding.decode_gray(data) - expected).max() > 50  # its own range
    wide = decoding.decode_gray(data, hu_offset=-1024, window=(-500, 3000))
    np.testing.assert_allclose(wide, (HOUNSFIELD + 2000) / 3000 * 255, atol=0.51)


@pytest.mark.parametrize("offset", [0, 100, float("nan")])
def test_an_offset_that_makes_no_hounsfield_units_is_refused(offset):
    with pytest.raises(decoding.ImageError, match="no Hounsfield units of a chest"):
        decoding.decode_gray(encode((HOUNSFIELD + 1024).astype(np.uint16)), hu_offset=offset)


def test_an_offset_is_for_16_bit_gray_alone():
    for data in (encode(RGB[..., 0]), encode(RGB), encode(RGB, "JPEG")):
        assert not decoding.is_16_bit(data)
        expected = decoding.decode_gray(data)
        np.testing.assert_array_equal(decoding.decode_gray(data, hu_offset=-1024), expected)
    assert not decoding.is_16_bit(b"")
    assert not decoding.is_16_bit(encode(RGB)[:20])


def test_exif_orientation_is_ignored_and_known():
    for orientation in (1, 3, 6, 8, 9):
        exif = Image.Exif()
        exif[274] = orientation  # 6 is rotated by 90 degrees
        for file_format in ("JPEG", "PNG", "WEBP"):
            data = encode(RGB, file_format, exif=exif)
            turned = decoding.decode_gray(data)
            np.testing.assert_array_equal(turned, decoding.decode_gray(encode(RGB, file_format)))
            assert decoding.exif_orientation(data) == (orientation if orientation < 9 else 1)
        tiff = encode(RGB, "TIFF", exif=exif)
        assert decoding.exif_orientation(tiff) == 1
        if orientation == 3:
            upright = decoding.decode_gray(encode(RGB, "TIFF"))
            np.testing.assert_array_equal(decoding.decode_gray(tiff), upright[::-1, ::-1])
    for data in (b"", encode(RGB), encode(RGB, "JPEG"), encode(RGB, "JPEG")[:30]):
        assert decoding.exif_orientation(data) == 1


@pytest.mark.parametrize(
    "array", [RGB[..., 0], RGB[..., :1], RGB, with_alpha(255), RGB.astype(np.uint16) * 257]
)
def test_arrays_follow_the_rules_of_files(array):
    gray = decoding.as_gray(array)
    assert gray.dtype == np.uint8
    assert gray.flags.c_contiguous
    if array.dtype == np.uint8:
        data = encode(array[..., 0] if array.shape[2:] == (1,) else array)
        np.testing.assert_array_equal(gray, decoding.decode_gray(data))


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (RGB / 255, r"float64 .* uint8 \(0\.\.255\)"),
        (RGB.astype(np.int64), "int64"),
        (RGB[..., 0] > 5, "bool"),
        (RGB.transpose(2, 0, 1), r"\(3, 64, 80\)"),
        (RGB[np.newaxis], r"\(1, 64, 80, 3\)"),
        (RGB[0, :, 0], r"\(80,\)"),
        (RGB[:8], "80 x 8 px is too small"),
        (with_alpha(0), "alpha goes down to 0"),
        (np.broadcast_to(np.uint8(0), (8001, 8000)), "64,008,000 pixels"),
    ],
)
def test_bad_arrays_are_refused_with_a_reason(array, reason):
    with pytest.raises(decoding.ImageError, match=reason):
        decoding.as_gray(array)


def test_every_unusable_file_is_found(tmp_path):
    for name, data in {"a.png": encode(RGB), "b.png": b"", "c.png": encode(RGB)[:99]}.items():
        (tmp_path / name).write_bytes(data)
    reasons = unusable(sorted(tmp_path.iterdir()))
    assert [path.name for path in reasons] == ["b.png", "c.png"]
    assert "0 bytes" in reasons[tmp_path / "b.png"]

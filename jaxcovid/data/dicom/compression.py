"""Compressed pixels of DICOM: which decoder takes them, and what they may not unpack to.

Standard: DICOM PS3.5, 8 (encoding) and annex G (run lengths).
"""

import io
import itertools
import struct
from typing import Any

import numpy as np
from PIL import Image

from jaxcovid.data.image_error import ImageError

# Transfer syntaxes: RLE, JPEG of 8 bits and JPEG 2000 are for plugins of pydicom; JPEG of 12 bits
# and JPEG Lossless (process 14, its selection value 1) for libjpeg-turbo.
_JPEG = "1.2.840.10008.1.2.4."
PLUGINS = {"1.2.840.10008.1.2.5": "pydicom", _JPEG + "50": "pillow"}
PLUGINS |= {_JPEG + "90": "pillow", _JPEG + "91": "pillow"}
BY_LIBJPEG = {_JPEG + "51", _JPEG + "57", _JPEG + "70"}
# Frames of a JPEG: all but the markers of tables, restarts and arithmetic conditioning.
_JPEG_FRAMES = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}


def check_compressed(dataset: Any, frame: bytes) -> None:
    """Refuses a compressed frame that unpacks to another size than the header promises.

    Raises:
      ImageError: it does, is damaged, or is of a compression that cannot be read.
    """
    from pydicom import uid

    syntax, rows, columns = dataset.file_meta.TransferSyntaxUID, dataset.Rows, dataset.Columns
    if syntax == uid.RLELossless:
        count, *offsets = np.frombuffer(frame[:64], "<u4").tolist()
        for start, end in itertools.pairwise([*offsets[:count], len(frame)]):
            _check_run_lengths(frame[start:end], limit=dataset.BitsAllocated // 8 * rows * columns)
        return
    if syntax in BY_LIBJPEG or syntax in (uid.JPEGBaseline8Bit, *uid.JPEGLSTransferSyntaxes):
        size = _jpeg_size(frame)
    elif syntax in PLUGINS:
        try:
            picture = Image.open(io.BytesIO(frame), formats=("JPEG2000",))
            size = picture.height, picture.width
        except (OSError, ValueError, SyntaxError) as error:
            raise ImageError(f"the pixels are no {syntax.name}; export uncompressed") from error
    else:
        raise ImageError(f"DICOM pixels of {syntax.name} cannot be read; export uncompressed")
    if size != (rows, columns):
        raise ImageError(
            f"compressed pixels of {size[1]} x {size[0]} px where the DICOM header says "
            f"{columns} x {rows}; export the file again"
        )


def _jpeg_size(frame: bytes) -> tuple[int, int]:
    """Reads height and width from the frame header of a JPEG, JPEG Lossless or JPEG-LS codestream.

    Raises:
      ImageError: there is none, it is of colours, or the codestream has no end (of which decoders
        make gray rows, or search for it for seconds).
    """
    if not frame.rstrip(b"\0").endswith(b"\xff\xd9"):
        raise ImageError("the compressed DICOM pixels were cut short; copy the file again")
    at = 2
    while frame[:2] == b"\xff\xd8" and at + 10 <= len(frame) and frame[at] == 0xFF:
        if frame[at + 1] == 0xFF:  # a filling byte
            at += 1
            continue
        length, _, height, width, samples = struct.unpack_from(">HBHHB", frame, at + 2)
        if frame[at + 1] in _JPEG_FRAMES:
            if samples != 1:
                raise ImageError(f"compressed DICOM pixels of {samples} samples; export it in gray")
            return height, width
        at += 2 + length
    raise ImageError("the compressed DICOM pixels are damaged; copy the file again from its source")


def _check_run_lengths(segment: bytes, *, limit: int) -> None:
    """Refuses a segment of PS3.5, annex G, of more than so many bytes: two can become 128."""
    position = unpacked = 0
    while position < len(segment):
        head = segment[position]
        unpacked += 257 - head if head > 128 else (head + 1) % 129
        position += 2 if head > 128 else 1 + (head + 1) % 129
        if unpacked > limit:
            raise ImageError("DICOM pixels that unpack to more than the header says; export again")

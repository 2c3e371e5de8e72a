"""DICOM files to 8-bit gray; `frames.read` says how.

One file a subject: `signature` (is it DICOM), `elements` (parsing), `header` (what a file says of
itself), `compression` and `pixels` (stored values), `display` (values to gray), `frames`.
"""

from jaxcovid.data.dicom.frames import Frames, open_frames, read
from jaxcovid.data.dicom.header import Header, header_of, is_placeholder
from jaxcovid.data.dicom.signature import is_dicom
from jaxcovid.data.dicom.warning_counts import counted_warnings

__all__ = [
    "Frames",
    "Header",
    "counted_warnings",
    "header_of",
    "is_dicom",
    "is_placeholder",
    "open_frames",
    "read",
]

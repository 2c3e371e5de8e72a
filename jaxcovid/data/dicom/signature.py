"""What the bytes of a DICOM file begin with."""

import re
import struct

# Value representations, by the bytes that hold their length: 2 or 4.
_SHORT_TYPES = re.findall(b"..", b"AEASATCSDADSDTFLFDISLOLTPNSHSLSSSTTMUIULUS")
_LONG_TYPES = re.findall(b"..", b"OBODOFOLOVOWSQSVUCUNURUTUV")

_LAST_GROUP = 0x28


def is_dicom(data: bytes) -> bool:
    """True if the bytes are those of a DICOM file (PS3.10: "DICM" after 128 others).

    Files without these 132 bytes are known by their first elements (PS3.5, 7.1), three in
    ascending order, of group 2 or 8 and of those up to that of the pixels' size.

    Args:
      data: the first 1,024 bytes of the file, or all.
    """
    if data[128:132] == b"DICM":
        return True
    encodings = (("<", True), ("<", False), (">", True))
    return any(_has_elements(data, order, explicit) for order, explicit in encodings)


def _has_elements(data: bytes, order: str, explicit: bool) -> bool:
    """True if data begins with DICOM elements in a byte order, with explicit types or without."""
    at, last, count = 0, -1, 0
    while count < 3:
        if at + 12 > len(data):  # the one before it reaches beyond the data
            return count == 2
        group, element = struct.unpack_from(f"{order}HH", data, at)
        tag, kind, head = group << 16 | element, data[at + 4 : at + 6], 8
        if tag <= last or group > _LAST_GROUP or (count == 0 and group not in (2, 8)):
            return False
        if not explicit:
            (length,) = struct.unpack_from(f"{order}I", data, at + 4)
        elif kind in _LONG_TYPES:
            (length,) = struct.unpack_from(f"{order}I", data, at + 8)
            head = 12
        elif kind in _SHORT_TYPES:
            (length,) = struct.unpack_from(f"{order}H", data, at + 6)
        else:
            return False
        if length % 2:  # of unknown length too, which no such element has this early
            return False
        at, last, count = at + head + length, tag, count + 1
    return True

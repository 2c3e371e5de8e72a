"""Masks of the lungs and of the lesion: how records hold them and how they are decoded.

A record holds a mask as a gray PNG of the size of its image, non-zero inside. No bytes mean that
the mask is not known; a mask that is known to be empty is a PNG of zeros.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxcovid.data.decoding import decode_gray
from jaxcovid.data.image_error import ImageError
from jaxcovid.data.structures import FEATURES, STRUCTURES, UNKNOWN


def decode_mask(record: Mapping[str, Any], structure: str) -> np.ndarray | None:
    """The mask of one of `STRUCTURES`, bool [h, w]; None if it is not known.

    Raises:
      ImageError: it cannot be decoded.
    """
    data = record.get(FEATURES[structure])
    if not data:
        return None
    try:
        return decode_gray(data) > 0
    except ImageError as error:
        raise ImageError(f"{FEATURES[structure]}: {error}") from error


def decode_masks(record: Mapping[str, Any], shape: tuple[int, int]) -> np.ndarray:
    """The masks of a record in the order of `STRUCTURES`.

    Args:
      record: see `datasets.Source`.
      shape: height and width of its image.

    Returns:
      uint8 [h, w, 2]: 0 or 1, or UNKNOWN over the whole channel of a mask that is not known.

    Raises:
      ImageError: a mask cannot be decoded, or has another size than the image.
    """
    masks = np.full((*shape, len(STRUCTURES)), UNKNOWN, np.uint8)
    for channel, structure in enumerate(STRUCTURES):
        mask = decode_mask(record, structure)
        if mask is None:
            continue
        if mask.shape != shape:
            raise ImageError(
                f"{FEATURES[structure]} has {mask.shape[1]} x {mask.shape[0]} px, its image "
                f"{shape[1]} x {shape[0]}; prepare the data set anew with masks of the same size"
            )
        masks[..., channel] = mask
    return masks

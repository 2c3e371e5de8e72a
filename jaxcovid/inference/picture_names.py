"""Names of the files that are made of images: heatmaps, contours and masks."""

import hashlib
import re


def picture_name(name: str, suffix: str = "") -> str:
    """The name of a PNG: one for each image, none of which leads out of its folder.

    The last part of the image's name for people, and a hash of the whole of it, as images of
    several folders may share that part.
    """
    last = re.sub(r"[^\w.-]", "_", name.rpartition("/")[2], flags=re.ASCII).lstrip(".")
    digest = hashlib.sha256(name.encode()).hexdigest()[:12]
    return re.sub(r"[/\\\0]", "_", f"{last[:100]}_{digest}{suffix}.png")

"""A made-up checkout of UCSD-AI4H/COVID-CT with the published names and counts."""

import pathlib

import cv2
import numpy as np

SPLIT_SIZES = {"train": 425, "validation": 118, "test": 203}
CLASS_COUNTS = {
    "train": {"COVID-19": 191, "NonCOVID": 234},
    "validation": {"COVID-19": 60, "NonCOVID": 58},
    "test": {"COVID-19": 98, "NonCOVID": 105},
}
PREFIXES = {"train": "train", "validation": "val", "test": "test"}


def list_path(root, split, group):
    return root / "Data-split" / group / f"{PREFIXES[split]}CT_{group}.txt"


def table_path(root, group):
    return root / f"{group}-CT-MetaInfo.csv"


def make_tree(root: pathlib.Path) -> pathlib.Path:
    """Writes small images below `root`, two a patient, no two of them the same."""
    ramp, number = np.arange(400, dtype=np.uint8).reshape(20, 20), 0
    headers = {
        "COVID": "File name,Patient ID,Age,Captions,,\n",
        "NonCOVID": ",image name,patient id\n",
    }
    for group, header in headers.items():
        (root / "Images-processed" / f"CT_{group}").mkdir(parents=True)
        (root / "Data-split" / group).mkdir(parents=True)
        table = header
        for split_index, (split, classes) in enumerate(CLASS_COUNTS.items()):
            count = classes["COVID-19" if group == "COVID" else "NonCOVID"]
            names = [f"{split}-p{i // 2}-52%{i % 2}.png" for i in range(count)]
            list_path(root, split, group).write_text("".join(f"{name}\n" for name in names))
            for index, name in enumerate(names):
                image = ramp.copy()
                number += 1  # no two files are the same
                image[0, :2] = divmod(number, 256)
                path = root / "Images-processed" / f"CT_{group}" / name
                path.write_bytes(cv2.imencode(".png", image)[1].tobytes())
                patient = 1000 * split_index + index // 2
                if group == "COVID":
                    table += f'{name},Patient {patient},41,"a caption, quoted",,\n'
                else:
                    table += f"{patient},{name},crawled_patient_{patient}\n"
        table_path(root, group).write_text(table)
    return root

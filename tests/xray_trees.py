"""Made-up folders of the X-ray data sets of Deep-CXR-Net, laid out as they are published.

No film is in two of them: what one part was trained on is no test of another.
"""

import pathlib

import cv2
import numpy as np

from jaxcovid.data.builders import chestxray14


def _write_film(path: pathlib.Path, seed: int, *, bright: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    film = np.random.default_rng(seed).integers(0, 120, (60, 70), np.uint8)
    if bright:
        cv2.circle(film, (20 + seed % 30, 30), 12, 240, -1)
    path.write_bytes(cv2.imencode(path.suffix, film)[1].tobytes())


def make_chestxray14(root: pathlib.Path, films: int = 100) -> pathlib.Path:
    """Films of 14 findings, each with about half of them."""
    rng = np.random.default_rng(0)
    lines = ["Image Index,Finding Labels,Patient ID,Patient Age,Patient Gender,View Position"]
    for i in range(films):
        present = [name for name in chestxray14.FINDINGS if rng.random() < 0.5]
        lines.append(f"{i}.png,{'|'.join(present) or 'No Finding'},{i // 2},61,M,PA")
        _write_film(root / "images" / f"{i}.png", i, bright="Pneumonia" in present)
    (root / "Data_Entry_2017_v2020.csv").write_text("\n".join(lines) + "\n")
    return root


def make_chest_xray(root: pathlib.Path, films: int = 100) -> pathlib.Path:
    """Films of children, one a patient."""
    for i in range(films):
        split = ("train", "train", "train", "val", "test")[5 * i // films]
        ill, number = i % 2, i // 2
        name = f"PNEUMONIA/person{number}_virus_1.jpeg" if ill else f"NORMAL/IM-{i:04d}-0001.jpeg"
        _write_film(root / split / name, 1000 + i, bright=bool(ill))
    return root


def make_covid_chestxray(root: pathlib.Path, films: int = 80) -> pathlib.Path:
    """Frontal films, two a patient."""
    lines = ["patientid,sex,age,finding,view,modality,folder,filename"]
    for i in range(films):
        ill = i // 2 % 2
        finding = "COVID-19" if ill else "Pneumocystis"
        lines.append(f"{i // 2},F,61,{finding},PA,X-ray,images,{i}.png")
        _write_film(root / "images" / f"{i}.png", 2000 + i, bright=bool(ill))
    (root / "metadata.csv").write_text("\n".join(lines) + "\n")
    return root

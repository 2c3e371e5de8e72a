"""Phantom: synthetic chest CT slices, drawn by the project, of COVID-19, pneumonia and neither.

Nothing is downloaded and no patient is behind it: it shows that the system works from end to
end, not that it helps anybody.
"""

import concurrent.futures
import multiprocessing
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from jaxcovid.data.hounsfield import LUNG_WINDOW
from jaxcovid.data.phantom import slice
from jaxcovid.data.png import encode_png
from jaxcovid.data.structures import FEATURES

# Patients of each split and class, in the order of `slice.CLASS_NAMES`; 3 to 5 slices each.
_PATIENTS = {"train": (120, 90, 60), "validation": (10, 8, 5), "test": (17, 13, 8)}

_DESCRIPTION = """\
Synthetic axial chest CT slices in a lung window, drawn by the project: no image of a patient, no
medical meaning. 331 made-up patients of 3 to 5 slices, split by patient. COVID-19: hazy patches
along the pleura of both lungs, vessels visible through them. Other pneumonia: one consolidation
ending at a fissure. Normal: neither. Body, pose, noise and window do not depend on the class, and
every class has its share of harmless haze, so that neither brightness nor histogram tells them
apart. Each record has the masks of its lungs, the diseased parts among them, and of its disease.
"""

_CITATION = """\
@misc{jaxcovid_phantom,
  title={The phantom slices of jaxcovid},
  author={{The jaxcovid authors}},
  year={2026},
  note={Synthetic images, drawn by jaxcovid.data.phantom}
}
"""


class Phantom(tfds.core.GeneratorBasedBuilder):
    """Builder of the phantom; the same records at every build."""

    VERSION = tfds.core.Version("1.3.0")
    options = ()
    named_by_user = False
    modality = "CT"
    window = LUNG_WINDOW
    grouped = True
    published = 0

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=_DESCRIPTION,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(None, None, 1), encoding_format="png"),
                    **{
                        name: tfds.features.Image(shape=(None, None, 1), encoding_format="png")
                        for name in FEATURES.values()
                    },
                    "id": tfds.features.Text(),
                    "patient": tfds.features.Text(),
                    "label": tfds.features.ClassLabel(names=list(slice.CLASS_NAMES)),
                }
            ),
            citation=_CITATION,
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[tuple[str, dict[str, Any]]]]:
        del dl_manager  # Nothing is downloaded.
        return {split: self._generate_examples(patients) for split, patients in plan().items()}

    def _generate_examples(
        self, patients: list[tuple[int, str]]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        # Spawned, not forked: TFDS runs threads.
        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(mp_context=context) as pool:
            for records in pool.map(_draw_patient, patients):
                for record in records:
                    yield record["id"], record


def _draw_patient(patient_and_label: tuple[int, str]) -> list[dict[str, Any]]:
    """Draws all slices of a patient; returns their records."""
    patient, label = patient_and_label
    name = f"patient{patient:03d}"
    records = []
    for index in slice.slices_of(patient):
        image, lesion = slice.draw_slice(patient=patient, index=index, label=label)
        lungs = slice.draw_lungs(patient=patient, index=index) | lesion
        record = {
            "image": encode_png(image),
            FEATURES["lungs"]: encode_png(lungs),
            FEATURES["lesion"]: encode_png(lesion),
            "patient": name,
            "label": label,
        }
        records.append({"id": f"{name}_slice{index}", **record})
    return records


def plan() -> dict[str, list[tuple[int, str]]]:
    """Lists the patients of each split: number, unique over all splits, and class name.

    The classes of a split are shuffled over its patients: a number does not give the class away.
    """
    rng = np.random.default_rng(166)
    patients, first = {}, 0
    for split, counts in _PATIENTS.items():
        labels = rng.permutation(np.repeat(slice.CLASS_NAMES, counts)).tolist()
        patients[split] = list(enumerate(labels, start=first))
        first += len(labels)
    return patients

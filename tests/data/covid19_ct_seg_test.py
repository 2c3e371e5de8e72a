"""COVID-19-CT-Seg in both layouts: what is read, upright, and split by patient."""

import collections
import os
import pathlib

import cv2
import numpy as np
import pytest
from mask_trees import SIDE, SLICES, save, scan, view

from jaxcovid.data import masks, pipeline, structures
from jaxcovid.data.builders import covid19_ct_seg
from jaxcovid.data.decoding import decode_gray
from jaxcovid.data.hounsfield import LUNG_WINDOW, through_window
from jaxcovid.data.image_error import ImageError
from jaxcovid.data.preparation import build
from jaxcovid.data.preprocessing import Preprocessing

VOLUMES = [f"coronacases_{i:03d}" for i in range(1, 11)] + [
    f"radiopaedia_{name}"
    for name in (
        "10_85902_1",
        "10_85902_3",
        "14_85914_0",
        "27_86410_0",
        "29_86490_1",
        "29_86491_1",
        "36_86526_0",
        "40_86625_0",
        "4_85506_1",
        "7_85703_0",
    )
]


def patients(rows):
    return {row["patient"] for row in rows}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """All volumes; those of radiopaedia as gray levels, their left and right lung with labels."""
    root = tmp_path_factory.mktemp("seg")
    for seed, name in enumerate(VOLUMES):
        values, lungs, lesion = scan(seed)
        if name.startswith("radiopaedia"):
            values = through_window(values.astype(float), LUNG_WINDOW)
        labels = lungs * np.where(np.arange(SIDE) < SIDE // 2, 2, 1)[:, None, None]
        save(root / "COVID-19-CT-Seg_20cases" / f"{name}.nii.gz", values)
        save(root / "Lung_Mask" / f"{name}.nii.gz", labels.astype(np.uint8))
        save(root / "Infection_Mask" / f"{name}.nii.gz", lesion)
    return root


def test_every_fold_is_the_test_once_and_no_patient_crosses(published):
    rows = covid19_ct_seg.read_rows(str(published))
    assert len(rows) == len(VOLUMES) * SLICES
    tested = []
    for fold in range(5):
        split = covid19_ct_seg.split_fold(rows, fold)
        assert sum(map(len, split.values())) == len(rows)
        members = [patients(split[name]) for name in ("train", "validation", "test")]
        assert not any(a & b for i, a in enumerate(members) for b in members[:i])
        assert len(members[1]) == 2
        for group in members:
            assert len({patient.split("_")[0] for patient in group}) == 2, "of both sources"
        tested += members[2]
    assert len(tested) == len(set(tested)) == 18


def test_two_volumes_of_one_patient_are_in_one_split(published):
    rows = covid19_ct_seg.read_rows(str(published))
    volumes = collections.defaultdict(set)
    for row in rows:
        volumes[row["patient"]].add(row["volume"])
    assert volumes["radiopaedia_10"] == {"radiopaedia_10_85902_1", "radiopaedia_10_85902_3"}
    assert sum(len(names) for names in volumes.values()) == 20


def test_volumes_become_slices_with_masks(published, tmp_path):
    dataset = build("covid19_ct_seg/fold1", tmp_path, source=str(published), every=2)
    assert dataset.masks == structures.STRUCTURES
    assert dataset.class_names == ("COVID-19",)
    assert sum(dataset.split_sizes.values()) == len(VOLUMES) * SLICES // 2
    seen = set()
    for split in dataset.split_sizes:
        for record in dataset.source(split):
            values, lungs, lesion = map(view, scan(VOLUMES.index(record["volume"])))
            index = record["slice_index"]
            gray = through_window(values[index].astype(float), LUNG_WINDOW)
            np.testing.assert_array_equal(decode_gray(record["image"]), gray)
            found = masks.decode_masks(record, gray.shape)
            np.testing.assert_array_equal(found[..., 0], lungs[index])
            np.testing.assert_array_equal(found[..., 1], lesion[index])
            seen.add((record["volume"].split("_")[0], bool(found[..., 1].any())))
    assert len(seen) == 4, "of both sources, with and without lesion"


def test_volumes_or_masks_that_are_missing_are_named(published, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"COVID-19-CT-Seg_20cases, Lung_Mask"):
        covid19_ct_seg.read_rows(str(tmp_path))
    for folder in ("COVID-19-CT-Seg_20cases", "Lung_Mask", "Infection_Mask"):
        (tmp_path / folder).symlink_to(published / folder)
    (tmp_path / "Lung_Mask").unlink()
    (tmp_path / "Lung_Mask").mkdir()
    with pytest.raises(FileNotFoundError, match=r"20 files are not in .*Lung_Mask/coronacases_001"):
        covid19_ct_seg.read_rows(str(tmp_path))
    (tmp_path / "COVID-19-CT-Seg_20cases").unlink()
    save(tmp_path / "COVID-19-CT-Seg_20cases" / "coronacases_001.nii.gz", scan()[0])
    with pytest.raises(FileNotFoundError, match="has no volume of coronacases_002"):
        covid19_ct_seg.read_rows(str(tmp_path))
    save(tmp_path / "COVID-19-CT-Seg_20cases" / "other_001.nii.gz", scan()[0])
    with pytest.raises(ValueError, match=r"other_001.nii.gz is no volume of COVID-19-CT-Seg"):
        covid19_ct_seg.read_rows(str(tmp_path))


def exported(root, cases):
    """Slices as pictures, a spot of lesion near the back; radiopaedia's are upside down."""
    lines = ["file,case"]
    for folder in ("ct", "lungs", "infection"):
        (root / folder).mkdir(parents=True)
    for number, case in enumerate(cases):
        values, lungs, lesion = (view(array)[3] for array in scan(number))
        pictures = {
            "ct": through_window(values.astype(float), LUNG_WINDOW),
            "lungs": 255 * lungs.astype(np.uint8),
            "infection": 255 * lesion.astype(np.uint8),
        }
        for folder, picture in pictures.items():
            picture = picture[::-1] if int(case[4:]) > 10 else picture
            suffix = "jpg" if folder == "ct" else "png"
            cv2.imwrite(str(root / folder / f"{number:04d}.{suffix}"), picture)
        lines.append(f"{number:04d},{case}")
    (root / "cases.csv").write_text("\n".join(lines))


def test_exported_slices_are_upright_and_have_the_same_folds(published, tmp_path):
    exported(tmp_path / "seg", [f"case{i:02d}" for i in range(1, 20)])
    volumes = covid19_ct_seg.read_rows(str(published))
    pictures = covid19_ct_seg.read_rows(str(tmp_path / "seg"))
    for fold in range(5):
        ours, theirs = (covid19_ct_seg.split_fold(rows, fold) for rows in (volumes, pictures))
        assert {name: patients(rows) for name, rows in ours.items()} == {
            name: patients(rows) for name, rows in theirs.items()
        }
    dataset = build("covid19_ct_seg", tmp_path / "data", source=str(tmp_path / "seg"))
    for split in dataset.split_sizes:
        for record in dataset.source(split):
            gray = decode_gray(record["image"])
            lungs, lesion = masks.decode_masks(record, gray.shape).transpose(2, 0, 1)
            assert np.nonzero(lesion)[0].min() > SIDE // 2, "the back is below"
            assert lungs[lesion == 1].all()
            assert gray[lungs == 1].mean() < gray[lungs == 0].mean() - 50, "masks fit the image"


def test_what_no_exported_slice_can_be_is_refused(tmp_path):
    exported(tmp_path, ["case01"])
    for line, reason in (("0000,case20", "case 'case20'"), ("../0000,case01", "'../0000'")):
        (tmp_path / "cases.csv").write_text(f"file,case\n{line}\n")
        with pytest.raises(ValueError, match=f"line 2: .*{reason}"):
            covid19_ct_seg.read_rows(str(tmp_path))
    (tmp_path / "cases.csv").write_text("file,case\n0000,case01\n")
    cv2.imwrite(str(tmp_path / "lungs" / "0000.png"), np.zeros((8, 40), np.uint8))
    with pytest.raises(ImageError, match=r"lung_mask 0000.png: .*the image has 32 x 32|8 px"):
        build("covid19_ct_seg", tmp_path / "data", source=str(tmp_path))


@pytest.mark.skipif("JAXCOVID_DATA" not in os.environ, reason="JAXCOVID_DATA is not set")
def test_the_exported_slices_at_hand(tmp_path):
    source = pathlib.Path(os.environ["JAXCOVID_DATA"]) / "COVID-19-CT-Seg"
    dataset = build("covid19_ct_seg/fold0", tmp_path, source=str(source))
    assert dataset.split_sizes == {"train": 390, "validation": 42, "test": 106}
    assert dataset.patient_counts == {"train": 13, "validation": 2, "test": 3}
    rows = covid19_ct_seg.read_rows(str(source))
    sizes = [len(covid19_ct_seg.split_fold(rows, fold)["test"]) for fold in range(5)]
    assert (min(sizes), max(sizes), sum(sizes)) == (106, 109, 538)
    spine_below = collections.defaultdict(list)
    for record in (record for split in dataset.split_sizes for record in dataset.source(split)):
        gray = decode_gray(record["image"])
        lungs, lesion = masks.decode_masks(record, gray.shape).transpose(2, 0, 1)
        assert lesion.any()
        if lungs.mean() > 0.1:
            # Between the lungs the spine is the brightest; it is at the back.
            y, x = np.nonzero(lungs)
            middle = cv2.blur(gray, (9, 9))[
                y.min() : y.max() + 20, round(x.mean()) + np.arange(-6, 7)
            ]
            row = np.unravel_index(middle.argmax(), middle.shape)[0]
            spine_below[record["volume"]].append(row > len(middle) / 2)
    assert len(spine_below) == 19
    assert min(np.mean(below) for below in spine_below.values()) > 0.5
    loading = pipeline.Loading(preprocessing=Preprocessing(size=64), batch_size=8, masks=True)
    batches = pipeline.train_batches(
        dataset.source("train"), loading, target=lambda record: np.zeros(1, np.float32), seed=0
    )
    assert {0, 1} == set(np.unique(next(batches)["masks"]))

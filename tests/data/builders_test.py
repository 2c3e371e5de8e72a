"""The builders of the paper's data sets: on trees with the published names, and on real data."""

import gzip
import json
import os
import pathlib
import time

import cv2
import numpy as np
import pytest
from covid_ct_tree import make_tree

from jaxcovid import prepare
from jaxcovid.data import masks
from jaxcovid.data.builders import (
    chest_xray_pneumonia,
    chestxray14,
    chexpert,
    covid_chestxray,
    ct_cov19,
)
from jaxcovid.data.opening import open_dataset
from jaxcovid.report import data_card

DATA = pathlib.Path(os.environ.get("JAXCOVID_DATA", "")) if "JAXCOVID_DATA" in os.environ else None


def real(name):
    """A folder of real data; skips the test without it."""
    if DATA is None or not (DATA / name).is_dir():
        pytest.skip(f"JAXCOVID_DATA names no folder with {name}/")
    return str(DATA / name)


def write_image(path, seed=0, size=(40, 48)):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(seed).integers(0, 256, size, np.uint8)
    path.write_bytes(cv2.imencode(path.suffix, image)[1].tobytes())


# CT-COV19


@pytest.fixture(scope="module")
def ct_cov19_tree(tmp_path_factory):
    """Ten cases and more, validation slices between those of training and test."""
    root = tmp_path_factory.mktemp("CT-COV19")
    for number in range(2, 722):
        split = ("Train", "Train", "Val", "Test")[number % 4]
        folder = root / split
        case = f"{1 + number // 60:02d}" if number < 660 else "malek_5"
        name = f"FILE{number:04d}.jpg" if number < 660 else f"pos_{number}.png"
        if number % 3 == 0:
            write_image(folder / "COV" / case / name, number)
        write_image(folder / "Normal" / "1" / f"neg_{number}.png", 1000 + number)
        inner = "" if split == "Val" else ("pneu_1" if number < 400 else "2")
        write_image(folder / "OtherPneumonia" / inner / f"pneu_{number}.png", 2000 + number)
    return root


def test_ct_cov19_keeps_series_together(ct_cov19_tree, tmp_path, caplog):
    (ct_cov19_tree / "Train" / "Normal" / "1" / "._neg_4.png").write_bytes(b"of macOS")
    dataset = prepare.build("ct_cov19", tmp_path, source=str(ct_cov19_tree))
    assert dataset.class_names == ("COVID-19", "other pneumonia", "normal")
    assert sum(dataset.split_sizes.values()) == 240 + 720 + 720
    assert all(dataset.class_counts[s][c] for s in dataset.split_sizes for c in dataset.class_names)
    assert "the paper counts 6120" in caplog.text
    record = dataset.source("train")[0]
    assert record["patient"].startswith(("COV/", "Normal/block ", "OtherPneumonia/block "))
    # Numbers are counted across the folders of a class.
    rows = ct_cov19.read_rows(str(ct_cov19_tree))
    blocks = {r["patient"] for r in rows if "/pneu_7" in r["id"] and r["id"].endswith("_70.png")}
    assert blocks == {"OtherPneumonia/block 1"}


def test_ct_cov19_as_published_leaks_and_says_so(ct_cov19_tree, tmp_path, caplog):
    dataset = prepare.build("ct_cov19/published", tmp_path, source=str(ct_cov19_tree))
    assert dataset.split_sizes["validation"] == 60 + 180 + 180
    assert "patients are in more than one split" in caplog.text


def test_ct_cov19_names_what_is_missing(tmp_path):
    (tmp_path / "Train" / "COV").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"Train/OtherPneumonia, .*Test/Normal not found"):
        ct_cov19.read_rows(str(tmp_path))


# covid-chestxray-dataset

DIALECTS = {
    "early": "Patientid,offset,sex,age,finding,survival,view,date,filename,doi, url,license,notes",
    "schema": "patientid,sex,age,finding,wbc count,pO2 saturation,view,modality,filename,"
    "clinical notes,other notes",
    "middle": "patientid,sex,age,finding,intubation_present,in_icu,view,modality,folder,filename,",
    "late": "patientid,sex,age,finding,RT_PCR_positive,view,modality,folder,filename",
}


def chestxray_tree(root, dialect, rows):
    """A checkout: rows of (patient, finding, view, filename), with an image each."""
    header = DIALECTS[dialect].split(",")
    lines = [DIALECTS[dialect]]
    for patient, finding, view, name in rows:
        values = {"patientid": patient, "finding": finding, "view": view, "filename": name}
        values |= {"sex": "F", "age": "61.0", "modality": "X-ray", "folder": "images"}
        cells = [values.get(column.strip().lower(), "") for column in header]
        lines.append(",".join(f'"{cell}"' if "," in cell else cell for cell in cells))
        write_image(root / "images" / name, len(lines))
    (root / "metadata.csv").write_text("\n".join(lines) + "\n")
    return str(root)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_covid_chestxray_reads_every_dialect(dialect, tmp_path):
    rows = [
        ("1", "COVID-19", "PA", "a.png"),
        ("2", "COVID-19, ARDS", "AP Supine", "b.png"),
        ("3", "Pneumonia/Viral/COVID-19", "AP", "c.png"),
        ("4", "Pneumonia/Viral/SARS", "PA", "d.png"),
        ("5", "todo", "PA", "e.png"),
        ("6", "COVID-19", "L", "f.png"),
    ]
    rows_read = covid_chestxray.read_rows(chestxray_tree(tmp_path, dialect, rows))
    assert [(row["id"], row["label"]) for row in rows_read] == [
        ("a.png", "COVID-19"),
        ("b.png", "COVID-19"),
        ("c.png", "COVID-19"),
        ("d.png", "other"),
    ]
    assert {(row["sex"], row["age"], row["lung_mask"]) for row in rows_read} == {("F", 61, None)}


def test_covid_chestxray_takes_lung_masks_where_there_are_any(tmp_path):
    """Only listed films count, and a mask is scaled to its film."""
    rows = [(str(i), ("COVID-19", "SARS")[i % 2], "PA", f"{i}.jpg") for i in range(40)]
    source = pathlib.Path(chestxray_tree(tmp_path / "films", "late", rows))
    folder = source / "annotations" / "lungVAE-masks"
    folder.mkdir(parents=True)
    film = cv2.imread(str(source / "images" / "0.jpg"), cv2.IMREAD_GRAYSCALE)
    height, width = film.shape
    for name in (*range(0, 40, 2), "unlisted"):
        mask = np.zeros((2 * height, 2 * width), np.uint8)
        mask[:, :width] = 255
        cv2.imwrite(str(folder / f"{name}_mask.png"), mask)
    dataset = prepare.build("covid_chestxray", tmp_path / "data", source=str(source))
    assert dataset.masks == ("lungs",)
    masked = 0
    for split in dataset.split_sizes:
        for record in dataset.source(split):
            mask = masks.decode_mask(record, "lungs")
            assert (mask is not None) == (int(record["id"].removesuffix(".jpg")) % 2 == 0)
            if mask is not None:
                masked += 1
                assert mask.shape == (height, width)
                assert mask[:, : width // 2].all()
                assert not mask[:, width // 2 + 1 :].any()
    assert masked == 20


def test_covid_chestxray_joins_patients_of_one_film(tmp_path, caplog):
    rows = [("285", "COVID-19", "PA", "a.png"), ("339", "COVID-19", "PA", "a.png")]
    rows += [("339", "SARS", "AP", "b.png"), ("1", "SARS", "AP", "c.png")]
    rows_read = covid_chestxray.read_rows(chestxray_tree(tmp_path, "middle", rows))
    assert [row["patient"] for row in rows_read] == ["285+339", "285+339", "1"]
    assert "a.png is listed under patients 285 and 339" in caplog.text


def test_covid_chestxray_leaves_a_site_out(tmp_path):
    """All its films are tested, and its patients' films of elsewhere are in no split."""
    hosts = ("radiopaedia.org", "www.eurorad.org", "www.nejm.org")
    lines = ["patientid,finding,view,filename,url"]
    for i in range(120):
        finding = ("COVID-19", "SARS")[i % 2]
        lines.append(f"{i},{finding},PA,{i}.png,https://{hosts[i // 2 % 3]}/case/{i}")
        write_image(tmp_path / "films" / "images" / f"{i}.png", i)
    lines.append("4,COVID-19,AP,again.png,https://www.eurorad.org/case/4")
    write_image(tmp_path / "films" / "images" / "again.png", 200)
    (tmp_path / "films" / "metadata.csv").write_text("\n".join(lines) + "\n")
    options = {"source": str(tmp_path / "films")}
    dataset = prepare.build("covid_chestxray/without_elsewhere", tmp_path / "data", **options)
    ids = {split: {r["id"] for r in dataset.source(split)} for split in dataset.split_sizes}
    assert ids["test"] == {f"{i}.png" for i in range(120) if i // 2 % 3 == 2}
    assert len(ids["train"]) == 72
    assert len(ids["validation"]) == 8
    assert "again.png" not in ids["train"] | ids["validation"]
    with pytest.raises(ValueError, match="the 0 images of hannover have no COVID-19 and no other"):
        prepare.build("covid_chestxray/without_hannover", tmp_path / "data", **options)


def test_covid_chestxray_refuses_what_it_does_not_know(tmp_path):
    source = chestxray_tree(tmp_path, "late", [("1", "COVID-19", "Oblique", "a.png")])
    with pytest.raises(ValueError, match="unknown views: Oblique; known are PA, AP"):
        covid_chestxray.read_rows(source)
    (tmp_path / "metadata.csv").write_text("patientid,view,filename\n1,PA,a.png\n")
    with pytest.raises(ValueError, match="no column finding"):
        covid_chestxray.read_rows(source)


def test_covid_chestxray_by_patient_takes_no_further_films(tmp_path):
    with pytest.raises(ValueError, match="only covid_chestxray/paper takes --other_pneumonia"):
        covid_chestxray.CovidChestxray(data_dir=tmp_path, other_pneumonia=["any"])


def test_covid_chestxray_lists_absent_films(tmp_path, caplog):
    rows = [(str(i), "COVID-19", "PA", f"{i}.png") for i in range(4)]
    source = chestxray_tree(tmp_path, "late", rows)
    for name in ("1.png", "3.png"):
        (tmp_path / "images" / name).unlink()
    with pytest.raises(FileNotFoundError, match=r"2 of 4 .* 1.png, 3.png.*--allow_missing"):
        covid_chestxray.read_rows(source)
    assert len(covid_chestxray.read_rows(source, allow_missing=True)) == 2
    assert "1.png, 3.png; left out" in caplog.text


# Chest X-rays of children


def test_chest_xray_pneumonia_carves_validation_by_patient(tmp_path, caplog):
    tree, data = tmp_path / "chest_xray", tmp_path / "data"
    for i in range(60):
        split = ("train", "train", "val", "test", "test")[i // 12]
        for j in range(2):
            kind = ("bacteria", "virus")[j]
            write_image(tree / split / "PNEUMONIA" / f"person{i}_{kind}_{j}.jpeg", 4 * i + j)
            stem = ("IM", "NORMAL2-IM")[i % 2]
            write_image(tree / split / "NORMAL" / f"{stem}-{i:04d}-000{j}.jpeg", 4 * i + 2 + j)
    (tree / "train" / "NORMAL" / ".DS_Store").write_bytes(b"junk")
    dataset = prepare.build("chest_xray_pneumonia", data, source=str(tree))
    assert dataset.split_sizes["test"] == 96
    assert 8 <= dataset.split_sizes["validation"] <= 24
    assert sum(dataset.split_sizes.values()) == 240
    assert "240 images; the published data set has 5856" in caplog.text
    write_image(tree / "test" / "PNEUMONIA" / "person0_virus_7.jpeg", 1000)
    with pytest.raises(ValueError, match=r"1 patients are in more than one split.*person0"):
        prepare.build("chest_xray_pneumonia", tmp_path / "again", source=str(tree))
    published = prepare.build("chest_xray_pneumonia/published", data, source=str(tree))
    assert published.split_sizes["test"] == 97
    write_image(tree / "test" / "NORMAL" / "scan.jpeg")
    with pytest.raises(ValueError, match=r"no patient in their name.*test/NORMAL/scan.jpeg"):
        chest_xray_pneumonia.read_rows(str(tree))


# Films with several findings


def chexpert_table(path, rows):
    lines = ["Path,Sex,Age,Frontal/Lateral,AP/PA," + ",".join(chexpert.FINDINGS)]
    for name, side, labels in rows:
        values = [labels.get(finding, "") for finding in chexpert.FINDINGS]
        lines.append(f"CheXpert-v1.0-small/{name},Female,68,{side},AP," + ",".join(values))
    text = "\n".join(lines) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


def test_chexpert_keeps_uncertain_labels(tmp_path):
    rows = []
    for i in range(40):
        labels = {"Pneumonia": "1.0" if i % 2 else "0.0", "Edema": "-1.0"}
        for side in ("frontal", "lateral"):
            name = f"train/patient{i:05d}/study1/view1_{side}.jpg"
            rows.append((name, side.capitalize(), labels))
            write_image(tmp_path / name, i)
    name = "valid/patient64541/study1/view1_frontal.jpg"
    write_image(tmp_path / name)
    chexpert_table(tmp_path / "train.csv.gz", rows)
    chexpert_table(tmp_path / "valid.csv", [(name, "Frontal", {"Pneumonia": "1.0"})])
    dataset = prepare.build("chexpert", tmp_path / "data", source=str(tmp_path))
    assert dataset.class_names == ()
    assert dataset.finding_names == tuple(sorted(chexpert.FINDINGS))
    assert dataset.split_sizes == {"train": 36, "validation": 4, "test": 1}
    assert dataset.class_counts["train"]["Pneumonia"] == 18
    record = dataset.source("train")[0]
    assert record["findings"]["Edema"] == -1
    assert record["findings"]["Fracture"] == -2
    assert (record["view"], record["sex"], record["age"]) == ("AP", "F", 68)
    chexpert_table(tmp_path / "valid.csv", [(name, "Frontal", {"Pneumonia": "2"})])
    with pytest.raises(ValueError, match=r"1 rows with a label other than 1, 0, -1.*line 2"):
        chexpert.read_labels(tmp_path / "valid.csv")


def test_chestxray14_needs_its_columns_and_knows_its_findings(tmp_path):
    table = tmp_path / "Data_Entry_2017.csv"
    table.write_text("Image Index,Finding Labels\na.png,Mass\n")
    with pytest.raises(ValueError, match="no column Patient ID"):
        chestxray14.read_labels(table)
    table.write_text(
        "Image Index,Finding Labels,Patient ID,Patient Age,Patient Gender,View Position\n"
        "a.png,Mass|Measles,1,058Y,M,PA\n"
    )
    with pytest.raises(ValueError, match="unknown findings: Measles"):
        chestxray14.read_labels(table)
    table.write_text(table.read_text().replace("Measles", "Effusion"))
    (row,) = chestxray14.read_labels(table)
    assert row["age"] == 58
    assert {name for name, value in row["findings"].items() if value} == {
        "Mass",
        "Pleural Effusion",
    }


# Real data


def test_real_chexpert_labels_have_their_counts():
    begun = time.perf_counter()
    rows = chexpert.read_labels(pathlib.Path(real("CheXpert-v1.0-small")) / "train.csv.gz")
    print(f"{time.perf_counter() - begun:.1f} s")
    assert len(rows) == 223_414
    assert len({row["patient"] for row in rows}) == 64_540
    published = {
        "Cardiomegaly": (27_000, 11_116, 8_087, 177_211),
        "Edema": (52_246, 20_726, 12_984, 137_458),
        "Consolidation": (14_783, 28_097, 27_742, 152_792),
        "Atelectasis": (33_376, 1_328, 33_739, 154_971),
        "Pleural Effusion": (86_187, 35_396, 11_628, 90_203),
        "Pneumonia": (6_039, 2_799, 18_770, 195_806),
    }
    for name, counts in published.items():
        values = np.array([row["findings"][name] for row in rows])
        assert tuple(int((values == v).sum()) for v in (1, 0, -1, -2)) == counts


@pytest.fixture(scope="module")
def real_films(tmp_path_factory):
    """The X-ray data sets at hand, prepared in one folder."""
    directory = tmp_path_factory.mktemp("films")
    prepare.build("chest_xray_pneumonia", directory, source=real("chest_xray"))
    prepare.build("chestxray14", directory, source=real("ChestX-ray14"))
    options = {"source": real("covid-chestxray-dataset"), "allow_missing": True}
    prepare.build("covid_chestxray", directory, **options)
    others = ("chest_xray_pneumonia", "chestxray14")
    prepare.build("covid_chestxray/paper", directory, other_pneumonia=others, **options)
    return directory


def test_real_covid_chestxray_by_patient(real_films):
    with pytest.raises(FileNotFoundError, match=r"7 of 538 .*case_71_figura1.png"):
        covid_chestxray.read_rows(real("covid-chestxray-dataset"))
    dataset = open_dataset("covid_chestxray", real_films)
    assert sum(dataset.split_sizes.values()) == 529  # two are partly transparent
    assert dataset.split_sizes["test"] == pytest.approx(0.3 * 529, abs=10)
    masks = 0
    for record in dataset.source("test"):
        if record["lung_mask"]:
            masks += 1
            film, mask = (
                cv2.imdecode(np.frombuffer(record[k], np.uint8), cv2.IMREAD_GRAYSCALE)
                for k in ("image", "lung_mask")
            )
            assert film.shape == mask.shape
            assert set(np.unique(mask)) == {0, 255}
            assert 0.05 < (mask > 0).mean() < 0.7
    assert masks > 20


def test_real_cards_tell_what_the_data_sets_hold(real_films):
    def card(name):
        return data_card.write_card(open_dataset(name, real_films)).read_text()

    page = card("covid_chestxray")
    assert "AP Supine" in page
    assert "Lung mask" in page
    assert page.count("data:image/png;base64,") == 2  # ages and the contact sheet
    assert "are in more than one split" not in page
    assert "are in more than one split" in card("covid_chestxray/paper")
    assert "Pleural Effusion" in card("chestxray14")


def test_real_covid_chestxray_as_in_the_paper(real_films):
    dataset = open_dataset("covid_chestxray/paper", real_films)
    test = list(dataset.source("test"))
    added = [r for r in test if r["id"].startswith(("chest_xray_pneumonia/", "chestxray14/"))]
    assert len(added) <= 100
    assert {r["finding"] for r in added} == {"Pneumonia"}
    assert {dataset.class_names[r["label"]] for r in added} == {"other"}
    assert len(test) - len(added) == pytest.approx(0.3 * 529, abs=2)
    # Nothing of it is what parts 1 and 2 train on.
    for name in ("chest_xray_pneumonia", "chestxray14"):
        other = open_dataset(name, real_films)
        seen = {r["image"] for split in ("train", "validation") for r in other.source(split)}
        assert not seen & {r["image"] for r in added}


def test_real_chestxray14_and_children(real_films):
    adults = open_dataset("chestxray14", real_films)
    counts = [split["Pneumonia"] for split in adults.class_counts.values()]
    assert sum(counts) == 289
    assert sum(adults.patient_counts.values()) == 624
    children = open_dataset("chest_xray_pneumonia", real_films)
    assert children.class_counts["test"] == {"pneumonia": 31, "normal": 20}
    assert sum(children.split_sizes.values()) == 240


# The paper's Table IV: trained on one data set, tested on another


@pytest.mark.long
def test_trained_on_ct_cov19_and_tested_on_covid_ct(ct_cov19_tree, command, tmp_path):
    data = f"--data_dir={tmp_path / 'data'}"
    command("prepare", "ct_cov19", f"--source={ct_cov19_tree}", data)
    source = make_tree(tmp_path / "COVID-CT")
    command("prepare", "covid_ct", f"--source={source}", data)
    run = f"--workdir={tmp_path / 'run'}"
    command("train", "--config=configs/ct_cov19.py:debug", "--config.epochs=0.05", run, data)
    command("evaluate", run, data, "--split=test")
    command("evaluate", run, data, "--split=test", "--dataset=covid_ct")
    folder = tmp_path / "run" / "evaluation"
    own = json.loads((folder / "test" / "metrics.json").read_text())
    other = json.loads((folder / "covid_ct" / "original" / "test" / "metrics.json").read_text())
    assert own["run"]["dataset"] == other["run"]["trained on"] == "ct_cov19/grouped"
    assert len(own["auc_per_output"]) == 3
    assert "auc_per_output" not in other
    assert other["run"]["classes"] == {"COVID-19": "COVID-19", "NonCOVID": "the rest"}
    assert (other["n"], other["n_positive"]) == (203, 98)
    thresholds = [metrics["operating_points"]["youden"]["threshold"] for metrics in (own, other)]
    assert thresholds[0] == thresholds[1]
    command("prepare", "folder", "--name=x", f"--source={ct_cov19_tree / 'Train'}", data)
    process = command("evaluate", run, data, "--dataset=folder/x", check=False)
    assert "has no label for COVID-19" in process.stderr

"""The audits find what is planted, on made-up and on real data sets, and nothing else."""

import json

import cv2
import numpy as np
import pytest
from conftest import REAL, open_real
from xray_trees import make_covid_chestxray

from jaxcovid import audit, prepare
from jaxcovid.audits import duplicates, items
from jaxcovid.data.decoding import decode_gray


def copies(gray):
    """A picture saved, scaled, cropped by 3 % and brightened."""
    height, width = gray.shape
    yield (
        "re-encoded",
        cv2.imdecode(
            cv2.imencode(".jpg", gray, [cv2.IMWRITE_JPEG_QUALITY, 60])[1], cv2.IMREAD_GRAYSCALE
        ),
    )
    yield "resized", cv2.resize(gray, None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA)
    top, left = round(0.015 * height), round(0.015 * width)
    yield "cropped", gray[top : height - top, left : width - left]
    yield "brightened", np.clip(1.15 * gray + 15, 0, 255).astype(np.uint8)


@pytest.mark.long
@pytest.mark.parametrize("name", REAL)
def test_planted_copies_are_found_in_every_real_data_set(name, real_data):
    dataset = open_real(name, real_data)
    source = dataset.source("train")
    rng = np.random.default_rng(0)
    detected = dict.fromkeys(("re-encoded", "resized", "cropped", "brightened"), 0)
    chosen = rng.permutation(len(source))[:60]
    for index in chosen:
        record = source[int(index)]
        original = items.read_item("train", record)
        for kind, picture in copies(decode_gray(record["image"])):
            planted = {**record, "image": cv2.imencode(".png", picture)[1].tobytes()}
            detected[kind] += len(
                duplicates.find_pairs([original, items.read_item("test", planted)])
            )
    shares = {kind: count / len(chosen) for kind, count in detected.items()}
    assert min(shares.values()) >= 0.95, shares


def checks_of(result):
    return {check["name"]: check for check in result["checks"]}


@pytest.mark.long
def test_covid_ct_is_audited_as_known(real_data, tmp_path):
    open_real("covid_ct", real_data)
    result = audit.run("covid_ct", data_dir=real_data, report=tmp_path)
    checks = checks_of(result)
    documents = checks["source documents in one split each"]
    assert {row["which"] for row in documents["rows"]} == {
        "10.1101/2020.03.12.20034686",
        "10.1101/2020.03.13.20035212",
        "10.1101/2020.03.22.20040782",
    }
    assert sum(row["images"] for row in documents["rows"]) == 32
    pairs = [(row["first"], row["second"]) for row in checks["no picture in two splits"]["rows"]]
    known = (
        "train: CT_NonCOVID/71%0.jpg (NonCOVID)",
        "test: CT_COVID/kjr-21-e24-p5-29.png (COVID-19)",
    )
    assert known in pairs
    # And a second figure of the same two papers.
    assert all("71%" in first and "kjr-21-e24-p5" in second for first, second in pairs)
    facts = {
        row["facts"]: row
        for row in checks["facts beside the disease do not tell the class"]["rows"]
    }
    assert facts["format"]["AUC"] == pytest.approx(0.883, abs=0.005)
    assert facts["border"]["AUC"] == pytest.approx(0.70, abs=0.02)
    assert checks["patients in one split each"]["verdict"] == "passed"
    assert result["verdict"] == "failed"
    assert json.loads((tmp_path / "audit.json").read_text()) == json.loads(json.dumps(result))
    assert (real_data / "covid_ct" / "original" / "1.0.0" / "audit.json").exists()
    page = (tmp_path / "audit.html").read_text()
    assert page.count("<figure>") == len(pairs)
    assert 'src="http' not in page


@pytest.mark.long
def test_real_covid_chestxray_shares_films_between_patients(real_data):
    open_real("covid_chestxray", real_data)
    checks = checks_of(audit.run("covid_chestxray", data_dir=real_data))
    assert checks["patients in one split each"]["verdict"] == "passed"
    assert len(checks["patients of one class each"]["rows"]) == 9
    rows = checks["no picture in two splits"]["rows"]
    assert len([row for row in rows if row["correlation"] > 0.999]) == 5


@pytest.fixture(scope="module")
def made_up(tmp_path_factory):
    """`folder/clean`, and `folder/dirty`, which has everything that an audit looks for."""
    root = tmp_path_factory.mktemp("made_up")
    rng = np.random.default_rng(0)
    rows = {"clean": [], "dirty": []}
    for i in range(90):
        coarse = rng.integers(0, 256, (8, 8), np.uint8)
        image = cv2.resize(coarse, (96, 96), interpolation=cv2.INTER_CUBIC)
        split, label = ("train", "validation", "test")[i // 30], ("normal", "COVID-19")[i % 2]
        for name in rows:
            # In `dirty` the format tells the class.
            suffix = ".jpg" if name == "dirty" and i % 2 else ".png"
            cv2.imwrite(str(root / f"{name}{i}{suffix}"), image)
            rows[name].append(f"{name}{i}{suffix},{label},p{i},{split}")
    planted = cv2.resize(cv2.imread(str(root / "dirty0.png")), (70, 70))
    cv2.imwrite(str(root / "copy.png"), planted)
    rows["dirty"].append("copy.png,COVID-19,q1,test")
    for i in (1, 3):
        cv2.imwrite(
            str(root / f"2020.02.10.2002158{i}-p6-52%1.png"), rng.integers(0, 256, (96, 96))
        )
    rows["dirty"] += [
        "2020.02.10.20021581-p6-52%1.png,normal,q2,train",
        "2020.02.10.20021583-p6-52%1.png,normal,q3,test",
    ]
    (root / "2020.02.10.20021581-p7.png").write_bytes((root / "dirty2.png").read_bytes())
    rows["dirty"].append("2020.02.10.20021581-p7.png,normal,q4,validation")
    directory = tmp_path_factory.mktemp("data")
    for name, lines in rows.items():
        table = root / f"{name}.csv"
        table.write_text("\n".join(["path,label,patient,split", *lines]) + "\n")
        prepare.build(f"folder/{name}", directory, csv=str(table))
    return directory


def test_a_clean_data_set_passes(made_up):
    result = audit.run("folder/clean", data_dir=made_up)
    assert {check["verdict"] for check in result["checks"]} <= {"passed", "warning", "not told"}
    assert checks_of(result)["no picture in two splits"]["summary"].startswith("no suspected pair")


def test_what_is_planted_is_found_and_fails(made_up):
    checks = checks_of(audit.run("folder/dirty", data_dir=made_up))
    documents = checks["source documents in one split each"]
    assert [row["which"] for row in documents["rows"]] == ["10.1101/2020.02.10.20021581"]
    pairs = checks["no picture in two splits"]["rows"]
    assert {(row["first"], row["second"], row["kind"]) for row in pairs} == {
        ("train: dirty0.png (normal)", "test: copy.png (COVID-19)", "same picture"),
        (
            "train: dirty2.png (normal)",
            "validation: 2020.02.10.20021581-p7.png (normal)",
            "same file",
        ),
    }
    assert len(checks["no picture of two classes"]["rows"]) == 1
    facts = checks["facts beside the disease do not tell the class"]
    assert facts["verdict"] == "failed"
    assert {row["facts"]: row["AUC"] for row in facts["rows"]}["format"] > 0.9


def test_patients_across_splits_fail(tmp_path):
    source = make_covid_chestxray(tmp_path / "films")
    prepare.build("covid_chestxray/paper", tmp_path / "data", source=str(source))
    checks = checks_of(audit.run("covid_chestxray/paper", data_dir=tmp_path / "data"))
    assert checks["patients in one split each"]["verdict"] == "failed"


def test_the_command_prints_verdicts_and_its_status_tells_of_failures(made_up, command, tmp_path):
    process = command("audit", "folder/clean", f"--data_dir={made_up}", check=False)
    assert process.returncode == 0, process.stderr
    assert "passed  patients in one split each" in process.stdout
    process = command(
        "audit", "folder/dirty", f"--data_dir={made_up}", f"--report={tmp_path}", check=False
    )
    assert process.returncode == 1
    assert "failed  no picture in two splits: 2 suspected pairs" in process.stdout
    assert (tmp_path / "audit.html").stat().st_size > 5000
    process = command(
        "audit", "folder/clean", f"--data_dir={made_up}", "--positive=flu", check=False
    )
    assert "no class or finding 'flu'; there are COVID-19, normal" in process.stderr

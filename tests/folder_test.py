import collections
import itertools

import cv2
import numpy as np
import pytest

from jaxcovid import prepare
from jaxcovid.data import images
from jaxcovid.data.builders import folder

_seeds = itertools.count()


def write_image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(next(_seeds)).integers(0, 256, (16, 20), dtype=np.uint8)
    cv2.imwrite(str(path), noise)


def write_table(root, rows, columns="path,label,patient,split", make_images=True):
    table = root / "images.csv"
    table.write_text("".join(f"{line}\n" for line in (columns, *rows)))
    if make_images:
        for row in rows:
            write_image(root / row.split(",")[0])
    return str(table)


def classes_folder(root, count=20):
    for label in ("covid", "other"):
        for index in range(count):
            write_image(root / label / f"{index}.png")
    return str(root)


FOUR = ["a.png,x,p1,train", "b.png,y,p1,train", "c.png,x,p2,val", "d.png,y,p3,test"]


def test_sub_folders_are_classes_at_any_depth(tmp_path, caplog):
    classes_folder(tmp_path)
    write_image(tmp_path / "covid" / "series" / "1" / "slice 0%1.jpg")
    for name in ("covid/Thumbs.db", "covid/.DS_Store", ".git/config", "README.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("no image")
    rows = folder.read_rows(str(tmp_path), None)
    assert collections.Counter(row["label"] for row in rows) == {"covid": 21, "other": 20}
    assert "covid/series/1/slice 0%1.jpg" in {row["id"] for row in rows}
    assert all(row["patient"] == row["id"] for row in rows)
    assert "each of the 41 images counts as its own patient" in caplog.text


def test_a_table_gives_patients_and_splits(tmp_path):
    rows = folder.read_rows(None, write_table(tmp_path, FOUR))
    assert rows[2] == {
        "path": tmp_path / "c.png",
        "id": "c.png",
        "label": "x",
        "patient": "p2",
        "split": "validation",
        "modality": "",
        "series": "",
    }
    assert [row["split"] for row in rows] == ["train", "train", "validation", "test"]


def test_paths_of_a_table_may_be_relative_to_the_source(tmp_path):
    write_image(tmp_path / "images" / "sub" / "a.png")
    write_image(tmp_path / "images" / "b.png")
    rows = ["./sub/a.png,x,train", "b.png,y,train"]
    table = write_table(tmp_path, rows, "path,label,split", make_images=False)
    found = folder.read_rows(str(tmp_path / "images"), table)
    assert [row["id"] for row in found] == ["sub/a.png", "b.png"]
    with pytest.raises(FileNotFoundError, match=r"2 images .*: sub/a\.png, b\.png"):
        folder.read_rows(None, table)


def test_the_split_is_70_10_20_by_patient_with_equal_shares_of_the_classes(tmp_path):
    rng = np.random.default_rng(0)
    rows = [
        f"{patient}-{i}.png,{'covid' if patient % 3 == 0 else 'other'},p{patient}"
        for patient in range(120)
        for i in range(rng.integers(1, 5))
    ]
    table = write_table(tmp_path, rows, "path,label,patient")
    found = folder.read_rows(None, table)
    assert found == folder.read_rows(None, table)
    share = np.mean([row["label"] == "covid" for row in found])
    patients = collections.defaultdict(set)
    for split, part in (("train", 0.7), ("validation", 0.1), ("test", 0.2)):
        inside = [row for row in found if row["split"] == split]
        assert abs(len(inside) / len(found) - part) < 0.03
        assert abs(np.mean([row["label"] == "covid" for row in inside]) - share) < 0.06
        patients[split] = {row["patient"] for row in inside}
    assert sum(map(len, patients.values())) == len(set().union(*patients.values())) == 120


def test_a_folder_is_prepared(tmp_path):
    dataset = prepare.build(
        "folder/my_ct", tmp_path / "data", source=classes_folder(tmp_path / "i")
    )
    assert dataset.name == "folder/my_ct"
    assert dataset.split_sizes == {"train": 28, "validation": 4, "test": 8}
    assert dataset.class_counts["test"] == {"covid": 4, "other": 4}


def test_a_table_is_prepared_with_the_splits_it_has(tmp_path):
    table = write_table(tmp_path, ["a.png,x,p1,test", "b.png,y,p2,test"])
    dataset = prepare.build("folder/external", tmp_path / "data", csv=table)
    assert dataset.split_sizes == {"test": 2}
    assert {record["patient"] for record in dataset.source("test")} == {"p1", "p2"}


def test_bad_images_are_listed_with_reasons(tmp_path):
    source = classes_folder(tmp_path / "images")
    (tmp_path / "images" / "covid" / "notes.txt").write_text("no image")
    (tmp_path / "images" / "other" / "empty.png").touch()
    with pytest.raises(images.ImageError, match="2 unusable images") as info:
        prepare.build("folder/a", tmp_path / "data", source=source)
    assert "notes.txt: no readable image" in str(info.value)
    assert "empty.png: the file is empty" in str(info.value)


@pytest.mark.parametrize(
    ("rows", "columns", "reason"),
    [
        ([], "path,label", "names no images"),
        (FOUR, "file,label,patient,split", "no column path"),
        (FOUR, "file,class,patient,split", "no column path and no column label"),
        (["a.png,x", "b.png,x"], "path,label", "2 classes are needed, found 1: x"),
        ([*FOUR, "./a.png,x,p1,train"], None, r"1 images stand more than once .*: a\.png"),
        ([*FOUR, "e.png,x,p4,Test"], None, "unknown splits .*: Test; use train, validation"),
        ([*FOUR, "e.png,x,p1,test"], None, r"1 patients .*: p1 \(test, train\)"),
        ([*FOUR, "e.png,x,,test", "f.png,,p5,test"], None, "2 empty .*line 6: patient, line 7"),
        (
            ["a.png,x,1", "b.png,y,2"],
            "path,label,patient",
            "class 'x' has 1 patients, .* at least 10",
        ),
    ],
)
def test_wrong_tables_are_refused(tmp_path, rows, columns, reason):
    table = write_table(tmp_path, rows, columns or "path,label,patient,split")
    with pytest.raises(ValueError, match=reason):
        folder.read_rows(None, table)


def test_no_path_of_a_table_leads_out_of_its_folder(tmp_path):
    inside = tmp_path / "inside"
    write_image(tmp_path / "secret.png")
    write_image(inside / "sub" / "b.png")
    (inside / "link.png").symlink_to(tmp_path / "secret.png")
    for path in ("../secret.png", "sub/../../secret.png", str(tmp_path / "secret.png"), "link.png"):
        rows = ["sub/b.png,x,1,train", f"{path},y,2,train"]
        table = write_table(inside, rows, make_images=False)
        with pytest.raises(
            ValueError, match=f"1 images .* are outside of {inside}: line 3: {path}"
        ):
            folder.read_rows(None, table)
    # Absolute paths, where the source holds them.
    rows = [f"{inside}/sub/b.png,x,1,train", f"{tmp_path}/secret.png,y,2,train"]
    table = write_table(inside, rows, make_images=False)
    assert len(folder.read_rows(str(tmp_path), table)) == 2


def test_what_is_no_table_is_refused(tmp_path):
    table = tmp_path / "table.csv"
    for content in (b"\xff\xfe", b"path,label\n" + b"x" * 200_000, b"path,label\na\0.png,x\n"):
        table.write_bytes(content)
        with pytest.raises(ValueError, match=r"table\.csv"):
            folder.read_rows(None, str(table))
    with table.open("wb") as file:
        file.truncate(2**26 + 1)
    with pytest.raises(ValueError, match="at most 67,108,864 bytes"):
        folder.read_rows(None, str(table))


def test_all_missing_files_are_listed(tmp_path):
    table = write_table(tmp_path, FOUR)
    (tmp_path / "b.png").unlink()
    (tmp_path / "d.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"2 images .*: b\.png, d\.png"):
        folder.read_rows(None, table)


def test_wrong_folders_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        folder.read_rows(str(tmp_path / "nowhere"), None)
    with pytest.raises(ValueError, match="no images in the sub-folders"):
        folder.read_rows(str(tmp_path), None)
    write_image(tmp_path / "train" / "x" / "a.png")
    write_image(tmp_path / "test" / "x" / "b.png")
    with pytest.raises(ValueError, match=r"test, train of .* are splits, not classes"):
        folder.read_rows(str(tmp_path), None)
    with pytest.raises(ValueError, match=r"--source=DIR .* or --csv=FILE"):
        folder.read_rows(None, None)
    with pytest.raises(FileNotFoundError, match=r"none\.csv"):
        folder.read_rows(None, str(tmp_path / "none.csv"))

import collections
import itertools
import os

import cv2
import mask_trees
import numpy as np
import pytest
from PIL import Image

from jaxcovid import prepare
from jaxcovid.data import decoding, masks, structures
from jaxcovid.data.builders import folder
from jaxcovid.report import data_card

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
    assert "Left out: 3 hidden files or folders, 1 loose files outside" in caplog.text


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
    rows_of_table = folder.read_rows(str(tmp_path / "images"), table)
    assert [row["id"] for row in rows_of_table] == ["sub/a.png", "b.png"]
    with pytest.raises(FileNotFoundError, match=r"2 of 2 images .*: sub/a\.png, b\.png"):
        folder.read_rows(None, table)


def test_the_split_is_70_10_20_by_patient_with_equal_shares_of_the_classes(tmp_path):
    rng = np.random.default_rng(0)
    rows = [
        f"{patient}-{i}.png,{'covid' if patient % 3 == 0 else 'other'},p{patient}"
        for patient in range(120)
        for i in range(rng.integers(1, 5))
    ]
    table = write_table(tmp_path, rows, "path,label,patient")
    rows_of_table = folder.read_rows(None, table)
    assert rows_of_table == folder.read_rows(None, table)
    share = np.mean([row["label"] == "covid" for row in rows_of_table])
    patients = collections.defaultdict(set)
    for split, part in (("train", 0.7), ("validation", 0.1), ("test", 0.2)):
        inside = [row for row in rows_of_table if row["split"] == split]
        assert abs(len(inside) / len(rows_of_table) - part) < 0.03
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
    with pytest.raises(decoding.ImageError, match="2 unusable images") as info:
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
        ([*FOUR, "b/../a.png,x,p1,train"], None, r"named by way of '\.\.'.*: line 6: b/\.\./a"),
        ([*FOUR, "e.png, X ,p4,test"], None, "only in case or blanks: 'x', 'X'; write each one"),
        ([*FOUR, "./a.png,x,p1,train"], None, r"1 images are listed more than once .*: a\.png"),
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
    for path in (str(tmp_path / "secret.png"), "link.png"):
        rows = ["sub/b.png,x,1,train", f"{path},y,2,train"]
        table = write_table(inside, rows, make_images=False)
        with pytest.raises(ValueError, match=f"1 files .* are outside of {inside}: line 3: {path}"):
            folder.read_rows(None, table)
    # Absolute paths, where the source holds them.
    rows = [f"{inside}/sub/b.png,x,1,train", f"{tmp_path}/secret.png,y,2,train"]
    table = write_table(inside, rows, make_images=False)
    assert len(folder.read_rows(str(tmp_path), table)) == 2


def test_what_is_no_table_is_refused(tmp_path):
    table = tmp_path / "table.csv"
    for content in (b"\xff\xfep", b"path,label\n" + b"x" * 200_000, b"path,label\na\0.png,x\n"):
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
    with pytest.raises(FileNotFoundError, match=r"2 of 4 images .*: b\.png, d\.png"):
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


@pytest.mark.parametrize(
    ("encoding", "delimiter"),
    [("utf-8-sig", ";"), ("utf-8", "\t"), ("utf-16", ","), ("latin-1", ";")],
)
def test_tables_of_other_programs_are_read(tmp_path, encoding, delimiter, caplog):
    write_table(tmp_path, FOUR)
    lines = ["path,label,patient,split", *FOUR]
    lines[1] = "a.png,Müdigkeit,p1,train"
    text = "\r\n".join(lines).replace(",", delimiter)
    (tmp_path / "other.csv").write_bytes(text.encode(encoding))
    rows = folder.read_rows(None, str(tmp_path / "other.csv"))
    assert [row["id"] for row in rows] == ["a.png", "b.png", "c.png", "d.png"]
    assert rows[0]["label"] == "Müdigkeit"
    assert ("is not UTF-8" in caplog.text) == (encoding == "latin-1")


def test_utf_16_without_its_mark_is_said(tmp_path):
    table = tmp_path / "table.csv"
    table.write_bytes("path,label\n".encode("utf-16-le"))
    with pytest.raises(ValueError, match="zero bytes, as UTF-16 without its mark"):
        folder.read_rows(None, str(table))


def test_one_file_under_two_labels_is_refused(tmp_path):
    source = classes_folder(tmp_path / "images")
    link = tmp_path / "images" / "other" / "link.png"
    link.symlink_to(tmp_path / "images" / "covid" / "3.png")
    with pytest.raises(ValueError, match=r"covid/3\.png \(covid\) and other/link\.png \(other\)"):
        prepare.build("folder/a", tmp_path / "data", source=source)
    link.unlink()
    link.write_bytes((tmp_path / "images" / "covid" / "3.png").read_bytes())
    with pytest.raises(
        ValueError, match=r"1 files have two labels: .*(3|link)\.png is .*(3|link)\.png"
    ):
        prepare.build("folder/a", tmp_path / "data", source=source)


def test_blank_images_are_named_and_bad_ones_left_out_when_wanted(tmp_path, caplog):
    source = classes_folder(tmp_path / "images", 25)
    cv2.imwrite(f"{source}/covid/0.png", np.full((20, 20), 90, np.uint8))
    (tmp_path / "images" / "other" / "empty.png").touch()
    (tmp_path / "images" / "covid" / os.fsdecode(b"caf\xe9.png")).write_bytes(b"no image")
    dataset = prepare.build("folder/a", tmp_path / "data", source=source, allow_missing=True)
    assert sum(dataset.split_sizes.values()) == 50
    assert "1 images are blank: covid/0.png" in caplog.text
    assert "2 unusable images" in caplog.text
    assert "other/empty.png: the file is empty" in caplog.text
    assert "covid/caf\\xe9.png: no readable image" in caplog.text


def test_a_table_may_name_what_is_not_there_when_allowed(tmp_path):
    table = write_table(tmp_path, [*FOUR, "e.png,y,p5,test"])
    (tmp_path / "e.png").unlink()
    assert len(folder.read_rows(None, table, allow_missing=True)) == 4


def test_a_used_name_with_other_options_is_refused_unless_it_may_be_replaced(tmp_path):
    first, second = (classes_folder(tmp_path / name) for name in ("first", "second"))
    before = prepare.build("folder/a", tmp_path / "data", source=first)
    assert prepare.build("folder/a", tmp_path / "data").digest == before.digest
    with pytest.raises(ValueError, match=rf"--source={second} \(prepared with {first}\)"):
        prepare.build("folder/a", tmp_path / "data", source=second)
    (tmp_path / "second" / "covid" / "0.png").write_text("no image")
    with pytest.raises(decoding.ImageError, match="1 unusable"):
        prepare.build("folder/a", tmp_path / "data", source=second, overwrite=True)
    assert prepare.build("folder/a", tmp_path / "data", source=first).digest == before.digest
    write_image(tmp_path / "second" / "covid" / "0.png")
    after = prepare.build("folder/a", tmp_path / "data", source=second, overwrite=True)
    assert after.digest != before.digest
    assert [path.name for path in after.directory.parent.iterdir()] == ["1.0.0"]


def test_volumes_give_a_record_a_slice(tmp_path):
    rng = np.random.default_rng(0)
    for label in ("covid", "other"):
        for index in range(10):
            (tmp_path / label).mkdir(exist_ok=True)
            volume = rng.integers(-1000, 400, (5, 32, 40)).astype(np.int16)
            np.save(tmp_path / label / f"case{index}.npy", volume)
    options = {"source": str(tmp_path), "every": 2, "window": (-600.0, 1200.0)}
    dataset = prepare.build("folder/v", tmp_path / "data", **options)
    assert dataset.modality == "CT"
    assert sum(dataset.split_sizes.values()) == 2 * 10 * 3  # of five slices 0, 2 and 4
    assert sum(dataset.patient_counts.values()) == 20
    record = dataset.source("test")[0]
    name, _, index = record["id"].partition("#")
    assert record["patient"] == name
    hu = np.load(tmp_path / name)[int(index)]
    gray = cv2.imdecode(np.frombuffer(record["image"], np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_allclose(gray, np.clip((hu + 1200.0) * 255 / 1200, 0, 255), atol=0.51)


def test_16_bit_ct_goes_through_the_window_when_told_and_is_named_when_not(tmp_path, caplog):
    rng = np.random.default_rng(0)
    stored = {}
    for label in ("covid", "other"):
        (tmp_path / "images" / label).mkdir(parents=True)
        for index in range(10):
            values = rng.integers(0, 1500, (24, 30)).astype(np.uint16)  # Hounsfield units + 1024
            stored[f"{label}/{index}.png"] = values
            cv2.imwrite(str(tmp_path / "images" / label / f"{index}.png"), values)
    source = str(tmp_path / "images")
    own = prepare.build("folder/own", tmp_path / "data", source=source)
    assert "20 images have 16 bits a pixel, and each is stretched" in caplog.text
    assert own.hu_offset is None
    caplog.clear()
    with_offset = prepare.build("folder/hu", tmp_path / "data", source=source, hu_offset=-1024.0)
    assert "16 bits" not in caplog.text
    assert (with_offset.modality, with_offset.hu_offset) == ("CT", -1024.0)
    record = with_offset.source("train")[0]
    hu = stored[record["id"]] - 1024.0
    expected = np.clip((hu + 1350) * 255 / 1500, 0, 255)
    np.testing.assert_allclose(decoding.decode_gray(record["image"]), expected, atol=0.51)


def test_an_exif_orientation_is_named(tmp_path, caplog):
    source = classes_folder(tmp_path / "images")
    turned = Image.Exif()
    turned[274] = 6
    Image.fromarray(np.arange(400, dtype=np.uint8).reshape(20, 20)).save(
        f"{source}/covid/0.png", exif=turned
    )
    prepare.build("folder/a", tmp_path / "data", source=source)
    assert "1 images carry an EXIF orientation, which is not applied" in caplog.text


def table_with_masks(root, masks, columns="path,label,patient,split,lesion_mask"):
    """A table of one class, image i with mask i, which may be empty."""
    splits = ["train", "val", "test"]
    rows = [f"{i}.png,covid,p{i},{splits[i % 3]},{mask}" for i, mask in enumerate(masks)]
    return write_table(root, rows, columns)


def write_mask(path, shape=(16, 20)):
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros(shape, np.uint8)
    mask[4:9, 5:15] = 1
    cv2.imwrite(str(path), mask)
    return mask


def test_a_table_names_masks_and_one_class_is_enough(tmp_path):
    expected = write_mask(tmp_path / "m" / "0.png")
    table = table_with_masks(tmp_path, ["m/0.png", "", "m/0.png", ""])
    dataset = prepare.build("folder/a", tmp_path / "data", csv=table)
    assert dataset.class_names == ("covid",)
    assert dataset.masks == ("lesion",)
    found = {
        record["id"]: masks.decode_masks(record, (16, 20))
        for split in dataset.split_sizes
        for record in dataset.source(split)
    }
    for name in ("0.png", "2.png"):
        np.testing.assert_array_equal(found[name][..., 1], expected)
    assert (found["1.png"] == structures.UNKNOWN).all()
    assert all((each[..., 0] == structures.UNKNOWN).all() for each in found.values())
    card = data_card.write_card(dataset).read_text()
    row = '<th scope="row">covid</th><td>2</td><td>2</td>'
    assert row in card.partition("Lesion mask")[2].partition("</table>")[0]
    assert "Lung mask" not in card


def test_masks_that_cannot_be_used_are_named(tmp_path):
    write_mask(tmp_path / "small.png", (8, 20))
    write_mask(tmp_path / "other.png", (17, 20))
    write_mask(tmp_path / "blurred.jpg")
    cv2.imwrite(str(tmp_path / "deep.png"), np.ones((16, 20), np.uint16))
    (tmp_path / "broken.png").write_bytes(b"no image")
    names = ["small.png", "other.png", "blurred.jpg", "deep.png", "broken.png"]
    table = table_with_masks(tmp_path, [*names, ""])
    with pytest.raises(decoding.ImageError, match="5 unusable images") as info:
        prepare.build("folder/a", tmp_path / "data", csv=table)
    for reason in (
        "0.png: lesion_mask small.png: 20 x 8 px",
        "1.png: lesion_mask other.png: 20 x 17 px, the image has 20 x 16",
        "2.png: lesion_mask blurred.jpg: a JPEG blurs the edges",
        "3.png: lesion_mask deep.png: a mask of 16 bits",
        "4.png: lesion_mask broken.png: no readable image",
    ):
        assert reason in str(info.value)
    table = table_with_masks(tmp_path, ["gone.png", "m.png", ""])
    with pytest.raises(FileNotFoundError, match=r"2 of 2 masks .*gone\.png.*m\.png"):
        folder.read_rows(None, table)


def test_no_mask_leads_out_of_the_folder(tmp_path):
    write_mask(tmp_path / "secret.png")
    (tmp_path / "in").mkdir()
    for mask in ("../secret.png", str(tmp_path / "secret.png")):
        table = table_with_masks(tmp_path / "in", ["", mask, ""])
        with pytest.raises(ValueError, match=r"1 files .* are outside of .*: line 3: .*secret"):
            folder.read_rows(None, table)


def test_the_masks_of_a_volume_are_a_volume(tmp_path):
    values, lungs, lesion = mask_trees.scan()
    for i in range(3):
        mask_trees.save(tmp_path / f"{i}.nii.gz", values + i)
    mask_trees.save(tmp_path / "lungs.nii.gz", lungs)
    mask_trees.save(tmp_path / "lesion.nii", lesion)
    lines = [
        f"{i}.nii.gz,covid,{split},lungs.nii.gz,{mask}"
        for i, (split, mask) in enumerate([("train", "lesion.nii"), ("val", ""), ("test", "")])
    ]
    columns = "path,label,split,lung_mask,lesion_mask"
    table = write_table(tmp_path, lines, columns, make_images=False)
    dataset = prepare.build("folder/a", tmp_path / "data", csv=table, every=2)
    assert dataset.masks == structures.STRUCTURES
    for split in dataset.split_sizes:
        for record in dataset.source(split):
            index = int(record["id"].partition("#")[2])
            found = masks.decode_masks(record, (mask_trees.SIDE, mask_trees.SIDE))
            np.testing.assert_array_equal(found[..., 0], mask_trees.view(lungs)[index])
            known = mask_trees.view(lesion)[index] if split == "train" else structures.UNKNOWN
            np.testing.assert_array_equal(found[..., 1], np.broadcast_to(known, found.shape[:2]))
    shifted = mask_trees.AFFINE.copy()
    shifted[0, 3] = 40
    mask_trees.save(tmp_path / "lesion.nii", lesion, shifted)
    with pytest.raises(decoding.ImageError, match=r"0.nii.gz: lesion_mask lesion.nii: .*40 mm"):
        folder.read_rows(None, table)

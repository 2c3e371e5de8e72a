import concurrent.futures
import dataclasses
import hashlib
import multiprocessing
import operator
import pathlib
import pickle
import shutil
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
import runs
import tensorflow_datasets as tfds

from jaxcovid import prepare
from jaxcovid.data import datasets, digest, masks
from jaxcovid.data.opening import open_dataset

ROOT = pathlib.Path(__file__).parents[2]


def write_images(folder, count=24, side=16):
    """Two classes of noise images in sub-folders."""
    rng = np.random.default_rng(0)
    for index in range(count):
        path = folder / ("covid" if index % 2 else "normal") / f"{index}%0.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), rng.integers(0, 256, (side, side), dtype=np.uint8))


def run_prepare(*arguments, **options):
    return runs.run(
        [sys.executable, "-m", "jaxcovid.prepare", *map(str, arguments)], cwd=ROOT, **options
    )


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """The images of a small data set and where it is prepared, as folder/mine."""
    images = tmp_path_factory.mktemp("images")
    write_images(images)
    data_dir = tmp_path_factory.mktemp("data")
    prepare.build("folder/mine", data_dir, source=str(images))
    return images, data_dir


@pytest.fixture
def dataset(places):
    return open_dataset("folder/mine", places[1])


def all_records(dataset):
    return [record for split in dataset.split_sizes for record in dataset.source(split)]


def test_an_opened_data_set_describes_itself(dataset, places):
    assert dataset.name == "folder/mine"
    assert dataset.class_names == ("covid", "normal")
    assert list(dataset.split_sizes) == ["train", "validation", "test"]
    assert sum(dataset.split_sizes.values()) == 24
    assert dataset.patient_counts == dataset.split_sizes
    for split, size in dataset.split_sizes.items():
        assert sum(dataset.class_counts[split].values()) == size == len(dataset.source(split))
    assert str(dataset.directory) == str(places[1] / "folder" / "mine" / "1.0.0")
    with pytest.raises(dataclasses.FrozenInstanceError):
        dataset.name = "other"


def test_records_hold_plain_values_and_the_bytes_of_the_files(dataset, places):
    records = all_records(dataset)
    assert len({record["id"] for record in records}) == 24
    for record in records:
        assert {key: type(value) for key, value in record.items()} == {
            "image": bytes,
            "id": str,
            "patient": str,
            "label": int,
            "series": str,
        }
        assert record["image"] == (places[0] / record["id"]).read_bytes()
        assert dataset.class_names[record["label"]] == record["id"].split("/")[0]


def test_a_record_outside_of_the_split_is_an_index_error(dataset):
    source = dataset.source("test")
    for index in (-1, len(source)):
        with pytest.raises(IndexError, match=f"record {index} of {len(source)}"):
            source[index]


def test_an_unknown_split_names_the_known(dataset):
    with pytest.raises(ValueError, match="no split 'val'; it has train, validation, test"):
        dataset.source("val")


def test_sources_go_to_spawned_workers(dataset):
    source = dataset.source("train")
    assert pickle.loads(pickle.dumps(dataset)) == dataset
    assert len(pickle.dumps(source)) < 1000
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        assert pool.submit(operator.getitem, source, 3).result() == source[3]


def test_neither_import_nor_reading_loads_tensorflow(places):
    code = (
        "import sys; from jaxcovid import prepare; from jaxcovid.data.opening import open_dataset\n"
        "assert 'tensorflow_datasets' not in sys.modules\n"
        f"dataset = open_dataset('folder/mine', {str(places[1])!r})\n"
        "dataset.source('train')[0]\n"
        "assert 'tensorflow' not in sys.modules"
    )
    process = runs.run([sys.executable, "-c", code], cwd=ROOT)
    assert process.returncode == 0, process.stderr


def test_a_data_set_that_is_not_there_names_the_command(tmp_path):
    for name, command in {
        "covid_ct/gray320": "covid_ct/gray320 --source=DIR",
        "covid_ct": "covid_ct --source=DIR",
        "folder/mine": "folder --name=mine --source=DIR",
        "phantom": "phantom",
    }.items():
        command = f"python -m jaxcovid.prepare {command} --data_dir={tmp_path}"
        with pytest.raises(FileNotFoundError) as info:
            open_dataset(name, tmp_path)
        assert str(info.value).endswith(command)


def test_the_highest_finished_version_and_the_default_config_are_taken(tmp_path):
    for version in ("1.9.0", "1.10.0", "2.0.0", "incomplete.1.0.0"):
        (tmp_path / "a" / "plain" / version).mkdir(parents=True)
        if version != "2.0.0":
            (tmp_path / "a" / "plain" / version / datasets.DIGEST_FILE).touch()
    assert datasets.find_version("a/plain", tmp_path).name == "1.10.0"
    assert datasets.find_version("a", tmp_path) is None
    (tmp_path / "a" / ".config").mkdir()
    (tmp_path / "a" / ".config" / "metadata.json").write_text('{"default_config_name": "plain"}')
    assert datasets.find_version("a", tmp_path).name == "1.10.0"


def test_a_damaged_digest_names_the_command(places, tmp_path):
    dataset = prepare.build("folder/a", tmp_path, source=str(places[0]))
    (dataset.directory / datasets.DIGEST_FILE).write_text("{")
    with pytest.raises(ValueError, match=r"damaged .*\n  python -m jaxcovid.prepare .*--overwrite"):
        open_dataset("folder/a", tmp_path)
    again = prepare.build("folder/a", tmp_path, source=str(places[0]), overwrite=True)
    assert again.digest == dataset.digest


def test_the_default_data_dir_follows_the_environment(monkeypatch, places):
    monkeypatch.setenv("TFDS_DATA_DIR", str(places[1]))
    assert open_dataset("folder/mine").split_sizes["train"]
    monkeypatch.delenv("TFDS_DATA_DIR")
    assert str(datasets.default_data_dir()) == str(pathlib.Path.home() / "tensorflow_datasets")


RECORDS = [
    {"id": "b", "label": 1, "patient": "ä", "image": b"\x00\xff"},
    {"id": "a", "label": 0, "patient": "p", "image": b"image"},
    {"id": "B", "label": 10, "patient": "p", "image": b""},
]


def test_the_digest_is_the_documented_hash(dataset):
    splits = {split: list(dataset.source(split)) for split in dataset.split_sizes}
    for sources in ({"train": RECORDS[:1], "test": RECORDS[1:]}, splits):
        stream = b""
        records = [(record, split) for split, members in sources.items() for record in members]
        for record, split in sorted(records, key=lambda pair: pair[0]["id"]):
            for field in (
                record["id"].encode(),
                b"%d" % record["label"],
                record["patient"].encode(),
                split.encode(),
                record["image"],
            ):
                stream += len(field).to_bytes(8, "little") + field
        assert digest.compute_digest(sources) == hashlib.sha256(stream).hexdigest()
    assert dataset.digest == hashlib.sha256(stream).hexdigest()


def test_the_digest_knows_content_and_splits_but_not_the_order():
    expected = digest.compute_digest({"train": RECORDS[:2], "test": RECORDS[2:]})
    assert digest.compute_digest({"test": RECORDS[2:], "train": RECORDS[1::-1]}) == expected
    assert digest.compute_digest({"test": RECORDS[:2], "train": RECORDS[2:]}) != expected
    assert digest.compute_digest({"train": RECORDS}) != expected
    assert digest.compute_digest({"train": RECORDS[:2]}) != expected
    for change in ({"id": "c"}, {"label": 2}, {"patient": "a"}, {"image": b"\x00\xfe"}):
        changed = {"train": [{**RECORDS[0], **change}, RECORDS[1]], "test": RECORDS[2:]}
        assert digest.compute_digest(changed) != expected
    # A mask that is not known is none, so that data sets without masks keep their digest.
    for change, same in (
        ({"lung_mask": b"", "lesion_mask": b""}, True),
        ({"lung_mask": b"png"}, False),
    ):
        masked = {"train": [{**RECORDS[0], **change}, RECORDS[1]], "test": RECORDS[2:]}
        assert (digest.compute_digest(masked) == expected) == same
    lungs, lesion, other = (
        digest.compute_digest({"": [{**RECORDS[0], name: content}]})
        for name, content in (("lung_mask", b"1"), ("lesion_mask", b"1"), ("lesion_mask", b"2"))
    )
    assert len({lungs, lesion, other}) == 3
    # Without lengths, these two would be one stream.
    moved = [{**RECORDS[1], "patient": "pi", "image": b"mage"}]
    assert digest.compute_digest({"": moved}) != digest.compute_digest({"": RECORDS[1:2]})


def test_an_id_that_occurs_twice_is_refused():
    with pytest.raises(ValueError, match="1 ids occur more than once: b"):
        digest.compute_digest({"train": RECORDS, "test": RECORDS[:1]})


def test_patients_in_two_splits_are_listed():
    digest.check_patients({"train": ["a", "a"], "test": ["b"]})
    with pytest.raises(ValueError, match=r"2 patients .* a \(test, train\); c \(test, val\)"):
        digest.check_patients({"train": ["a", "b"], "val": ["c"], "test": ["a", "c"]})


def test_no_digest_is_written_where_a_patient_crosses_the_splits(dataset, monkeypatch):
    before = (dataset.directory / datasets.DIGEST_FILE).read_text()
    read = datasets.Source.__getitem__
    monkeypatch.setattr(
        datasets.Source, "__getitem__", lambda self, i: {**read(self, i), "patient": "p"}
    )
    with pytest.raises(ValueError, match=r"p \(test, train, validation\)"):
        digest.write_digest(dataset.directory)
    assert (dataset.directory / datasets.DIGEST_FILE).read_text() == before


def test_prepare_reports_and_does_it_once(places, tmp_path):
    arguments = ("folder", "--name=mine", f"--source={places[0]}", f"--data_dir={tmp_path}")
    first = run_prepare(*arguments)
    assert first.returncode == 0, first.stderr
    dataset = open_dataset("folder/mine", tmp_path)
    counts = dataset.class_counts["test"]
    for text in (
        "Preparing folder/mine on this host's",
        f"folder/mine: {dataset.directory}",
        f"test: {dataset.split_sizes['test']} images ({counts['covid']} covid, {counts['normal']}",
        f"digest: sha256 {dataset.digest}",
    ):
        assert text in first.stdout
    again = run_prepare(*arguments)
    assert again.returncode == 0
    assert "folder/mine is already prepared" in again.stdout
    assert dataset.digest in again.stdout
    assert "Preparing" not in again.stdout


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["nothing"], "no data set 'nothing'; there are covid_ct, ct_cov19, "),
        (["folder", "--source=."], "folder needs --name=NAME"),
        (["folder", "--name=a/b", "--source=."], "got 'a/b'"),
        (["phantom", "--source=."], "phantom takes no --source"),
        (["covid_ct", "--csv=a.csv"], "covid_ct takes no --csv"),
        (["covid_ct/gray", "--source=."], "no config 'gray'; it has original, gray320"),
        (["covid_ct", "--source=/nowhere"], "no checkout of COVID-CT"),
    ],
)
def test_prepare_gives_one_clear_message(arguments, reason, tmp_path):
    result = run_prepare(*arguments, f"--data_dir={tmp_path}")
    assert result.returncode == 1
    assert f"error: {reason}" in result.stderr or reason in result.stderr.split("error: ")[1]
    assert "Traceback" not in result.stderr


def test_prepare_where_nothing_can_be_written(places, tmp_path):
    (tmp_path / "file").touch()
    result = run_prepare(
        "folder", "--name=a", f"--source={places[0]}", f"--data_dir={tmp_path / 'file'}"
    )
    assert result.returncode == 1
    assert "error: cannot keep data sets in" in result.stderr
    assert "--data_dir=DIR" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_full_disk_is_said(places, tmp_path, monkeypatch):
    import array_record.python.array_record_module as array_record

    class Full:
        def __init__(self, *args):
            del args

        def write(self, record):
            raise RuntimeError("write() failed: No space left on device; writing x")

        def close(self):
            pass

        is_open = ok = close

    monkeypatch.setattr(array_record, "ArrayRecordWriter", Full)
    with pytest.raises(OSError, match=r"the disk of .* is full"):
        prepare.build("folder/a", tmp_path, source=str(places[0]))
    assert datasets.find_version("folder/a", tmp_path) is None


def test_a_run_killed_half_way_leaves_nothing_finished(tmp_path):
    write_images(tmp_path / "images", count=400, side=200)
    data_dir = tmp_path / "data"
    arguments = ["folder", "--name=a", f"--source={tmp_path / 'images'}", f"--data_dir={data_dir}"]

    def killed_half_way():
        shutil.rmtree(data_dir, ignore_errors=True)
        process = runs.popen(
            [sys.executable, "-m", "jaxcovid.prepare", *arguments],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while process.poll() is None and not list(data_dir.glob("folder/a/incomplete*")):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        # It may have been faster; and what was finished when it was killed is whole.
        killed = process.wait() == -signal.SIGKILL
        return killed and datasets.find_version("folder/a", data_dir) is None

    assert any(killed_half_way() for _ in range(20))
    with pytest.raises(FileNotFoundError, match=r"jaxcovid\.prepare folder --name=a"):
        open_dataset("folder/a", data_dir)
    assert prepare.build("folder/a", data_dir, source=str(tmp_path / "images")).digest


def test_a_data_set_without_its_digest_is_prepared_anew(places, tmp_path):
    first = prepare.build("folder/a", tmp_path, source=str(places[0]))
    (first.directory / datasets.DIGEST_FILE).unlink()
    with pytest.raises(FileNotFoundError):
        open_dataset("folder/a", tmp_path)
    leftover = first.directory / "leftover"
    leftover.touch()
    again = prepare.build("folder/a", tmp_path, source=str(places[0]))
    assert again == first
    assert not leftover.exists()


class Old(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A data set as the phantom was up to version 1.2.0."""

    VERSION = tfds.core.Version("1.2.0")
    name = "old"

    def _info(self):
        picture = tfds.features.Image(shape=(None, None, 1), encoding_format="png")
        texts = dict.fromkeys(("id", "patient"), tfds.features.Text())
        label = tfds.features.ClassLabel(names=["a"])
        features = {"image": picture, "mask": picture, "label": label, **texts}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        picture = cv2.imencode(".png", np.eye(20, dtype=np.uint8))[1].tobytes()
        pictures = {"image": picture, "mask": picture}
        yield "0", {**pictures, "label": "a", "id": "0", "patient": "0"}


def test_the_mask_of_an_old_data_set_is_that_of_its_lesion(tmp_path):
    builder = Old(data_dir=tmp_path, file_format="array_record")
    builder.download_and_prepare()
    digest.write_digest(builder.data_dir)
    dataset = open_dataset("old", tmp_path)
    assert dataset.masks == ("lesion",)
    (record,) = dataset.source("train")
    assert "mask" not in record
    np.testing.assert_array_equal(masks.decode_mask(record, "lesion"), np.eye(20, dtype=bool))

"""Files from others cannot run code or lead elsewhere, and secrets stay where they are."""

import json
import os
import pathlib
import pickle
import shutil
import sys

import cv2
import numpy as np
import pytest
import runs
from covid_ct_tree import list_path, make_tree

from jaxcovid import predict
from jaxcovid.data import volumes
from jaxcovid.data.builders import chestxray14, chexpert, covid_chestxray, covid_ct, tables
from jaxcovid.data.decoding import ImageError
from jaxcovid.inference import out_of_distribution, training_facts
from jaxcovid.inference.picture_names import picture_name
from jaxcovid.workdir.run import WorkdirError

NO_PICKLE = pathlib.Path(__file__).with_name("no_pickle.py")
GOLDEN_WORKDIR = pathlib.Path(__file__).parent / "golden" / "workdir"
GOLDEN_MODULE = pathlib.Path(__file__).parent / "golden" / "weights" / "timm" / "module.pt"
CANARY = "canary-9f3c51"


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


def without_pickle(name, *arguments, **environment):
    return runs.run(
        [sys.executable, NO_PICKLE, f"jaxcovid.{name}", *map(str, arguments)],
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "1", "GLIBC_TUNABLES": "", **environment},
    )


def test_the_watch_sees_a_pickle(tmp_path):
    """Of a module of our own that unpickles, by each of two ways."""
    for number, call in enumerate(("pickle.loads(data)", "_pickle.loads(data)")):
        (tmp_path / f"victim{number}.py").write_text(
            "import pickle, _pickle, pathlib\n"
            f"data = {pickle.dumps(Payload(tmp_path / 'made'))!r}\n{call}\n"
        )
        process = runs.run(
            [sys.executable, NO_PICKLE, f"victim{number}"],
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
        )
        assert process.returncode == 77
    assert not (tmp_path / "made").exists()


def write_detector(workdir, **more):
    few = np.ones(3)
    values = {"mean": few, "scale": few, "location": few, "precision": np.eye(3)}
    values |= {"limit": 1.0, "colour_limit": 16.0, **more}
    np.savez_compressed(workdir / out_of_distribution.FILE, **values)


def test_a_detector_of_something_else_than_numbers_is_refused(tmp_path):
    write_detector(tmp_path)
    assert out_of_distribution.load_detector(tmp_path).limit == 1.0
    payload = np.array([Payload(tmp_path / "made")], dtype=object)
    for more, reason in (
        ({"mean": payload}, "Object arrays cannot be loaded"),
        ({"mean": np.zeros(2**23)}, "at most 33,554,432 are accepted"),
        ({"scale": np.ones(4)}, "scale is float64"),
        ({"limit": "x"}, "limit is <U1"),
    ):
        write_detector(tmp_path, **more)
        message = rf"out_of_distribution\.npz is damaged: .*{reason}"
        with pytest.raises(WorkdirError, match=message):
            out_of_distribution.load_detector(tmp_path)
    for content in (pickle.dumps(payload), b"", b"PK"):
        (tmp_path / out_of_distribution.FILE).write_bytes(content)
        with pytest.raises(WorkdirError, match="damaged"):
            out_of_distribution.load_detector(tmp_path)
    assert not (tmp_path / "made").exists()


def test_facts_of_a_training_of_something_else_than_numbers_are_refused(tmp_path):
    path = tmp_path / training_facts.FILE
    payload = np.array([Payload(tmp_path / "made")], dtype=object)
    counts = np.array([1, 2])
    np.savez(path, facts=payload, positive=np.ones(30, bool), training=counts, validation=counts)
    with pytest.raises(WorkdirError, match=r"training_facts\.npz is damaged: .*Object arrays"):
        training_facts.load_training_facts(tmp_path)
    for content in (pickle.dumps(payload), b"", b"PK"):
        path.write_bytes(content)
        with pytest.raises(WorkdirError, match="damaged"):
            training_facts.load_training_facts(tmp_path)
    assert not (tmp_path / "made").exists()


def test_a_volume_of_something_else_than_numbers_is_refused(tmp_path):
    payload = np.array([[Payload(tmp_path / "made")] * 16] * 16, dtype=object)
    path = tmp_path / "scan.npy"
    np.save(path, payload, allow_pickle=True)
    for content in (path.read_bytes(), pickle.dumps(payload), pickle.dumps(payload, 0)):
        path.write_bytes(content)
        with pytest.raises(ImageError, match=r"no readable \.npy file of numbers"):
            volumes.open_volume(path)
    np.savez(tmp_path / "scan.npz", payload)
    (tmp_path / "scan.npz").rename(path)
    with pytest.raises(ImageError, match=r"an \.npz archive is no array"):
        volumes.open_volume(path)
    assert not (tmp_path / "made").exists()


def test_names_of_published_tables_stay_in_their_folder(tmp_path):
    findings = ",".join(chexpert.FINDINGS)
    zeros = ",".join("0" for _ in chexpert.FINDINGS)
    table = tmp_path / "metadata.csv"
    name = "../../x.png"
    table.write_text(f"{','.join(chestxray14._COLUMNS)}\n{name},Mass,1,61,M,PA\n")
    with pytest.raises(ValueError, match=r"line 2: '\.\./\.\./x\.png' leads out"):
        chestxray14.read_labels(table)
    table.write_text(
        f"Path,Sex,Age,Frontal/Lateral,AP/PA,{findings}\ntop/../patient1/{name},,,,,{zeros}\n"
    )
    with pytest.raises(ValueError, match=r"line 2: '\.\./patient1/\.\./\.\./x\.png' leads out"):
        chexpert.read_labels(table)
    for row in (f"images,{name}", f"..,{name}", "/etc,x.png"):
        table.write_text(f"patientid,finding,view,folder,filename\n1,COVID-19,PA,{row}\n")
        with pytest.raises(ValueError, match="leads out"):
            covid_chestxray.read_rows(str(tmp_path))
    root = make_tree(tmp_path / "COVID-CT")
    path = list_path(root, "train", "COVID")
    path.write_text(path.read_text().replace("train-p0-52%0.png", name))
    with pytest.raises(ValueError, match=r"trainCT_COVID\.txt: '\.\./\.\./x\.png' leads out"):
        covid_ct.read_rows(str(root))
    for bad in ("/etc/passwd", "a/../../b", "..", "a\0"):
        with pytest.raises(ValueError, match="leads out"):
            tables.file_in(tmp_path, bad, named_in="a list")
    assert tables.file_in(tmp_path, "a/..b.png", named_in="a list") == tmp_path / "a" / "..b.png"


def test_a_pickled_network_is_read_without_unpickling(tmp_path):
    process = without_pickle("convert", GOLDEN_MODULE, f"--out={tmp_path / 'out'}")
    assert process.returncode == 1, process.stderr
    assert "Nearest is densenet121 of timm" in process.stderr  # it is a narrow one


@pytest.mark.parametrize(
    "path", ["../../a.png", "/a/b.png", "a/../../b", "..", "x" * 250, "é" * 120, "a\\b"]
)
@pytest.mark.parametrize("output", ["", "_/../../x", "_..\\x", "_a\0"])
def test_heatmaps_stay_in_their_folder(path, output, tmp_path):
    name = picture_name(path, output)
    (tmp_path / name).write_bytes(b"")
    assert [found.name for found in tmp_path.iterdir()] == [name]


@pytest.mark.long
def test_no_command_unpickles_a_file_or_tells_a_secret(data_dir, command, tmp_path):
    """In whole commands, whatever library reads; only workers of a training use pickles."""
    # What is typed is kept, for the report; what the environment says, a folder among it, is not.
    data = tmp_path / CANARY
    data.symlink_to(data_dir)
    run = tmp_path / "run"
    image = tmp_path / "image.png"
    cv2.imwrite(str(image), np.random.default_rng(0).integers(0, 256, (70, 80), np.uint8))
    secret = {"AWS_SECRET_ACCESS_KEY": CANARY, "TFDS_DATA_DIR": str(data)}
    arguments = ("--config=configs/default.py:debug", "--config.dataset=folder/blobs")
    processes = [
        command("train", *arguments, f"--workdir={run}", **secret),
        without_pickle("evaluate", f"--workdir={run}", **secret),
        without_pickle(
            "predict",
            f"--workdir={run}",
            "--heatmaps",
            f"--output={run / 'predicted'}",
            image,
            **secret,
        ),
    ]
    for process in processes:
        assert process.returncode == 0, process.stderr
        assert CANARY not in process.stdout + process.stderr
    files = [path for path in run.rglob("*") if path.is_file()]
    names = {path.name for path in files}
    assert {"run.json", "out_of_distribution.npz", "metrics.jsonl", "predictions.csv"} <= names
    assert {"training_facts.npz", "report.html"} <= names
    assert [path for path in files if CANARY.encode() in path.read_bytes()] == []


def test_a_workdir_from_somebody_else_runs_no_code_and_writes_in_its_folder(tmp_path):
    run = tmp_path / "run"
    shutil.copytree(GOLDEN_WORKDIR, run)
    image = tmp_path / "image.png"
    cv2.imwrite(str(image), np.random.default_rng(0).integers(0, 256, (70, 80), np.uint8))
    write_detector(run, mean=np.array([Payload(tmp_path / "made")], dtype=object))
    with pytest.raises(WorkdirError, match=r"out_of_distribution\.npz is damaged: .*Object arrays"):
        list(predict.run(run, [image]))
    assert not (tmp_path / "made").exists()
    # Its outputs have names of folders.
    (run / out_of_distribution.FILE).unlink()
    facts = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**facts, "outputs": ["../../x"]}))
    before = set(tmp_path.rglob("*"))
    (row,) = predict.run(run, [image], heatmaps=tmp_path / "predicted")
    assert not row["error"]
    written = set(tmp_path.rglob("*")) - before
    assert len(written) >= 2
    assert all(path.is_relative_to(tmp_path / "predicted") for path in written)

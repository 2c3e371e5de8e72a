"""Rows of a global batch lie in the order of the mesh, whatever order the devices come in."""

import dataclasses
import json
import os
import subprocess
import sys

import cv2
import jax
import numpy as np
import pytest
import two_processes

from jaxcovid.data.pipeline import Loading
from jaxcovid.data.preprocessing import Preprocessing
from jaxcovid.inference.predict_source import predict_source
from jaxcovid.runtime import sharding

# Their processes; those behind an asterisk are several slices.
TOPOLOGIES = {"v5e:4x4": 4, "v5e:4x8": 8, "v5p:2x2x4": 4, "v5p:4x4x4": 16, "v5e:4x4*2": 8}

# In a process of its own, so that no other test sees libtpu.
OF_TOPOLOGIES = """
import json, sys
import numpy as np
from jax.experimental import topologies
from jaxcovid.runtime import sharding

found = {}
for name in sys.argv[1:]:
    topology, _, slices = name.partition("*")
    several = {"num_slices": int(slices)} if slices else {}
    devices = topologies.get_topology_desc(topology, "tpu", **several).devices
    mesh = sharding.make_mesh(devices=devices[::-1])
    batch = np.zeros((2 * mesh.size, 1))
    rows = {}
    placed = sharding.batch_sharding(mesh).devices_indices_map(batch.shape)
    for device, (where, _) in placed.items():
        rows.setdefault(device.process_index, []).extend(range(*where.indices(len(batch))))
    groups = sharding.shard_state({"kernel": np.zeros((64, 64))}, mesh, 4)["kernel"].mesh
    found[name] = {
        "rows": [sorted(rows[process]) for process in sorted(rows)],
        "fsdp": [[d.process_index for d in group] for group in groups.devices],
        "processes": sharding.process_order(mesh),
        "slices": [len({getattr(d, "slice_index", 0) for d in row}) for row in mesh.devices],
    }
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def of_topologies(tmp_path_factory):
    pytest.importorskip("libtpu", reason="topologies of TPUs need libtpu (Linux x86_64)")
    environment = {
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # no lock that two test runs would fight over
        "TPU_LOG_DIR": str(tmp_path_factory.mktemp("libtpu")),
    }
    printed = subprocess.run(
        [sys.executable, "-c", OF_TOPOLOGIES, *TOPOLOGIES],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=600,
    ).stdout
    return json.loads(printed)


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_on_a_pod_each_process_has_contiguous_rows_in_its_order(name, of_topologies):
    rows = of_topologies[name]["rows"]
    assert len(rows) == TOPOLOGIES[name]
    assert np.array_equal(np.concatenate(rows), np.arange(2 * 4 * TOPOLOGIES[name]))
    assert {len(of_one) for of_one in rows} == {8}


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_on_a_pod_groups_of_four_devices_lie_in_one_process(name, of_topologies):
    assert of_topologies[name]["fsdp"] == [[i] * 4 for i in range(TOPOLOGIES[name])]


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_the_devices_say_how_many_slices_there_are(name, of_topologies):
    assert of_topologies[name]["slices"] == [1] * int(name.partition("*")[2] or 1)
    assert of_topologies[name]["processes"] == list(range(TOPOLOGIES[name]))


@dataclasses.dataclass(frozen=True)
class Device:
    """What a mesh is ordered by."""

    id: int
    process_index: int
    slice_index: int
    platform: str = "tpu"
    device_kind: str = "TPU v5e"


def test_slices_whose_processes_are_numbered_in_turns():
    devices = [Device(i, process_index=i // 2, slice_index=i // 2 % 2) for i in range(8)]
    mesh = sharding.make_mesh(devices=devices)
    assert [[d.slice_index for d in row] for row in mesh.devices] == [[0] * 4, [1] * 4]
    assert sharding.process_order(mesh) == [0, 2, 1, 3]
    # Slices of unequal sizes are none.
    assert sharding.make_mesh(devices=devices[:6]).devices.shape == (1, 6)


def test_slices_by_option():
    assert sharding.make_mesh(8).devices.shape == (1, 8)
    mesh = sharding.make_mesh(8, slices=2)
    assert [[d.id for d in row] for row in mesh.devices] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    for slices in (3, -1, 16):
        message = f"slices is {slices}, which does not divide 8 devices; use one of 1, 2, 4, 8"
        with pytest.raises(ValueError, match=message):
            sharding.make_mesh(8, slices=slices)


def test_groups_lie_within_a_slice_or_are_all_devices():
    mesh = sharding.make_mesh(8, slices=4)
    for size in (1, 2, 8):
        sharding.check_fsdp(size, mesh)
    for size in (0, 3, 4):
        message = f"fsdp is {size}, which does not divide the 2 devices of a slice; use one of "
        with pytest.raises(ValueError, match=message + "1, 2, 8"):
            sharding.check_fsdp(size, mesh)


IMAGES, BATCH = 37, 16


def predictions(mesh):
    """Eight gray values of each of 37 images, as a network would have predicted them."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (IMAGES, 16, 16), np.uint8)
    source = [
        {"id": str(i), "image": cv2.imencode(".png", x)[1].tobytes()} for i, x in enumerate(images)
    ]
    rows = sharding.batch_sharding(mesh)
    forward = jax.jit(lambda weights, image: image[:, 0, :8, 0], out_shardings=rows)
    return predict_source(
        {},
        source,
        forward=forward,
        loading=Loading(preprocessing=Preprocessing(size=16), batch_size=BATCH),
        mesh=mesh,
    )


def predict_with_devices_that_come_alternately(folder):
    """In one of two processes of four devices each."""
    of_each = [[d for d in jax.devices() if d.process_index == i] for i in range(2)]
    mixed = [device for pair in zip(*of_each, strict=True) for device in pair]
    assert [device.process_index for device in mixed] == [0, 1] * 4
    path = f"{folder}/{jax.process_index()}.npy"
    np.save(path, predictions(sharding.make_mesh(devices=mixed)))


def test_two_processes_predict_in_the_order_of_the_source(tmp_path):
    function = "predict_with_devices_that_come_alternately"
    for status, log in two_processes.call("sharding_test", function, tmp_path, devices=4):
        assert status == 0, log
    expected = predictions(sharding.make_mesh())
    assert expected.shape == (IMAGES, 8)
    assert len(np.unique(expected, axis=0)) == IMAGES
    for i in range(2):
        np.testing.assert_array_equal(np.load(tmp_path / f"{i}.npy"), expected)


def test_an_installed_libtpu_says_nothing_where_there_is_no_tpu():
    pytest.importorskip("libtpu", reason="needs libtpu (Linux x86_64)")
    environment = {k: v for k, v in os.environ.items() if k != "JAX_PLATFORMS"}
    code = "from jaxcovid.runtime import cli; cli.start(); import jax; print(jax.devices())"
    process = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=600
    )
    assert process.returncode == 0, process.stderr
    assert len(process.stderr.splitlines()) == 1, process.stderr
    assert "Process 0 of 1" in process.stderr

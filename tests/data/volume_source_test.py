"""Volumes in place of slices: which are chosen, and what the network is shown of them."""

import cv2
import numpy as np
import pytest

from jaxcovid.data import pipeline
from jaxcovid.data.preprocessing import Preprocessing
from jaxcovid.data.volume_source import VolumeSource, by_volumes


def slices_of(name, count, *, label=0, order=None):
    """Slices of a volume, each of its own brightness, in a shuffled order of places."""
    records = []
    for place in order or range(count):
        image = np.full((40, 30), 10 + 5 * place, np.uint8)
        image[:20] //= 2
        png = cv2.imencode(".png", image)[1].tobytes()
        fields = {"id": f"{name}-{place}", "patient": "p", "label": label, "image": png}
        records.append({**fields, "volume": name, "slice_index": place})
    return records


def test_slices_are_evenly_spaced_in_the_order_of_their_places():
    many = slices_of("a", 9, label=1, order=[3, 1, 8, 0, 5, 2, 7, 6, 4])
    source = VolumeSource([*many, *slices_of("b", 2)], 5)
    assert len(source) == 2
    assert [x["id"] for x in source[0]["slices"]] == ["a-0", "a-2", "a-4", "a-6", "a-8"]
    assert {x["id"] for x in source[1]["slices"]} == {"b-0", "b-1"}
    assert len(source[1]["slices"]) == 5
    record = source[0]
    assert (record["id"], record["label"], record["slice_index"]) == ("a", 1, 4)


def test_without_a_name_a_patient_is_a_volume():
    records = [{**each, "volume": ""} for each in slices_of("a", 3)]
    assert [each["id"] for each in VolumeSource(records, 2)] == ["p"]
    assert by_volumes(records, 0) is records


def test_slices_of_a_file_or_series_lie_in_the_order_of_their_numbers():
    files = [{"id": f"scan.nii#{i}", "patient": "p", "label": 0} for i in (10, 9, 2, 1)]
    other = [{"id": f"s{i}", "patient": "p", "label": 0, "series": "x"} for i in (11, 3)]
    source = VolumeSource([*files, *other], 4)
    assert [each["id"] for each in source] == ["scan.nii", "p x"]
    assert [each["id"] for each in source[0]["slices"]] == [f"scan.nii#{i}" for i in (1, 2, 9, 10)]
    assert [each["id"] for each in source[1]["slices"]][::3] == ["s3", "s11"]
    with pytest.raises(ValueError, match="has findings"):
        VolumeSource([{"id": "film", "patient": "p"}], 1)


def test_slices_of_two_classes_are_no_volume():
    with pytest.raises(ValueError, match=r"volume a has slices of two classes.*volume\.slices=0"):
        VolumeSource([*slices_of("a", 2), *slices_of("a", 1, label=1)], 2)


def test_slices_are_channels_and_change_alike():
    same = [{**slices_of("a", 1)[0], "slice_index": i} for i in range(4)]
    five = Preprocessing(size=32, rotation_deg=40.0, mean=0.0, std=1.0)
    loading = pipeline.Loading(preprocessing=five, batch_size=2)
    source = VolumeSource([*same, *slices_of("b", 3)], 3)

    def target(record):
        return np.float32([record["label"]])

    batches = pipeline.train_batches(source, loading, target=target, seed=0, preprocess_on="host")
    shown = np.concatenate([next(batches)["image"] for _ in range(6)])
    assert shown.shape == (12, 32, 32, 3)
    alike = [np.ptp(image, axis=-1).max() == 0 for image in shown]
    assert sum(alike) == 6  # volume a, in each epoch
    assert len(np.unique(shown[alike].reshape(6, -1), axis=0)) == 6  # each time another rotation
    (batch,) = pipeline.eval_batches(source, loading)
    expected = five(cv2.imdecode(np.frombuffer(same[0]["image"], np.uint8), 0))
    np.testing.assert_array_equal(batch["image"][0], np.repeat(expected, 3, axis=-1))

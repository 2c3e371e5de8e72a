"""Files are decoded in other processes, whose end is not that of the program."""

import os

import numpy as np
import pytest
from dicom_series import Bright, ct_slice, open_answers, read_rows, receive, series

from jaxcovid.data.image_error import ImageError
from jaxcovid.listening import guarded_reading
from jaxcovid.listening.inbox import Inbox
from jaxcovid.serving.decoding_pool import DecoderPool
from jaxcovid.serving.limits import Limits

pytest.importorskip("highdicom")


@pytest.fixture
def guarded():
    pool = DecoderPool(Limits(decoders=1))
    yield guarded_reading.guard(Bright(), pool)
    pool.close()


def crash(sight, data):
    """Ends the process at one of the slices, as a decoder does."""
    if data == ct_slice("a", 1):
        os.abort()
    return sight.read_gray(data)


def test_a_guarded_network_sees_the_same(guarded):
    data = ct_slice("a")
    np.testing.assert_array_equal(guarded.sight.read_gray(data), Bright().read_gray(data))
    with pytest.raises(ImageError, match="PixelData"):
        guarded.sight.read_gray(data[:-100])
    assert guarded.outputs == Bright().outputs


def test_a_file_that_crashes_a_decoder_is_an_image_with_an_error(guarded, monkeypatch, tmp_path):
    monkeypatch.setattr(guarded_reading, "_read_gray", crash)
    inbox = Inbox(tmp_path, open_answers(tmp_path, guarded), quiet_s=0)
    receive(inbox, *series("a"))
    assert inbox.screen_due() == 1
    (row,) = read_rows(tmp_path)
    assert (row["images"], row["error"]) == ("2", "1 images could not be used")

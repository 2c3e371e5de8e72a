"""Files that kill, hang or fill the process that decodes them."""

import asyncio
import os
import pathlib
import tempfile
import time

import numpy as np
import pages
import pytest

from jaxcovid.data.image_error import ImageError
from jaxcovid.data.sight import Sight
from jaxcovid.serving import decoding
from jaxcovid.serving.decoding_pool import DecoderPool
from jaxcovid.serving.limits import Limits


def fill(size):
    return np.ones(size, np.uint8).sum()


def test_a_decoder_that_dies_hangs_or_is_full_is_replaced(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(pages.picture())
    limits = Limits(decode_s=3, memory_bytes=2**31, decoders=1)

    async def check():
        pool = DecoderPool(limits)
        try:
            await pool.run(os.getpid)  # what follows has imported what it needs
            for function, argument, says in (
                (os._exit, 1, "failed"),
                (os.abort, None, "failed"),
                (fill, 2**32, "2,048 MiB"),
                (time.sleep, 60, "more than 3 seconds"),
                (os.listdir, str(tmp_path / "nothing"), "FileNotFoundError"),
            ):
                arguments = () if argument is None else (argument,)
                with pytest.raises(ImageError, match=says):
                    await pool.run(function, *arguments)
                decoded = await pool.run(decoding.decode, path, [Sight()], limits)
                assert len(decoded.slices) == 1
        finally:
            pool.close()

    asyncio.run(check())


def test_a_network_sees_what_predict_shows_it(tmp_path):
    from jaxcovid.inference.image_reader import Reader

    path = pages.volume(tmp_path / "scan.nii.gz", slices=3, brightest=1)
    near = Sight("CT", (-600.0, 1500.0))
    far = Sight("CT", (-900.0, 400.0))
    decoded = decoding.decode(path, [near, far], Limits())
    assert decoded.volume
    assert decoded.unit == decoding.HOUNSFIELD
    for index, sight in enumerate((near, far)):
        expected = [image.gray for image in Reader(sight).open([path])]
        for slice_, gray in zip(decoded.slices, expected, strict=True):
            np.testing.assert_array_equal(slice_.views[index].read(), gray)


@pytest.mark.parametrize("name", ["scan.nii.gz", "a/b.NII", "x.npy", "../../etc/passwd", "", "é"])
def test_nothing_of_a_senders_name_is_used_but_what_a_volume_is_known_by(name):
    assert decoding.file_name(name) in ("file", "file.nii.gz", "file.nii", "file.npy")


def something_else():
    return os.system


def test_nothing_is_unpickled_but_answers():
    async def check():
        pool = DecoderPool(Limits(decoders=1))
        try:
            with pytest.raises(ImageError, match="answered is none"):
                await pool.run(something_else)
            assert await pool.run(os.getpid)
        finally:
            pool.close()

    asyncio.run(check())


def test_a_file_that_nobody_waits_for_is_left_alone_when_its_task_ends(tmp_path):
    async def check():
        pool = DecoderPool(Limits(decoders=1))
        try:
            pid = await pool.run(os.getpid)
            for seconds, kept in ((0.5, True), (60, False)):
                task = asyncio.create_task(pool.run(time.sleep, seconds))
                waiting = asyncio.create_task(pool.run(time.sleep, 60))
                await asyncio.sleep(0.1)
                begun = time.monotonic()
                for each in (waiting, task):
                    each.cancel()
                await asyncio.wait({task, waiting})
                assert task.cancelled()
                assert waiting.cancelled()
                assert time.monotonic() - begun < 10
                assert (await pool.run(os.getpid) == pid) == kept
        finally:
            pool.close()

    asyncio.run(check())


def test_an_unpacked_volume_is_let_go_of_with_its_page(tmp_path):
    path = pages.volume(tmp_path / "scan.nii.gz")

    def holds(pid):
        """Whether a process has mapped a file without a name."""
        lines = pathlib.Path(f"/proc/{pid}/maps").read_text().splitlines()
        return any("(deleted)" in line and tempfile.gettempdir() in line for line in lines)

    async def check():
        pool = DecoderPool(Limits(decoders=1))
        try:
            pid = await pool.run(os.getpid)
            await pool.run(decoding.show, path, 3, Sight("CT"))
            assert holds(pid)
            path.unlink()
            deadline = time.monotonic() + 30
            while holds(pid):
                assert time.monotonic() < deadline
                await asyncio.sleep(0.1)
            assert await pool.run(os.getpid) == pid
        finally:
            pool.close()

    asyncio.run(check())

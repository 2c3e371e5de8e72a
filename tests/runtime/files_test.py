import pathlib

import pytest

from jaxcovid.runtime import files


def test_folders_are_paths_or_urls():
    assert files.as_path("runs/a") == pathlib.Path("runs/a")
    assert files.as_path("file:///runs/a") == pathlib.Path("/runs/a")
    remote = files.as_path("gs://bucket/a")
    assert str(remote / "b") == "gs://bucket/a/b"
    assert files.is_remote(remote)
    assert not files.is_remote(files.as_path("file:///runs/a"))
    with pytest.raises(ValueError, match="s3://bucket/a is no folder; give a path"):
        files.as_path("s3://bucket/a")

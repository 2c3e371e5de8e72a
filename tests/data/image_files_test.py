"""Which files are images: linked, hidden, broken and doubled ones, and names of any bytes."""

import collections
import os

import pytest

from jaxcovid.data import image_files
from jaxcovid.data.image_files import find_files
from jaxcovid.inference.screening import list_files


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.fsencode(path))


@pytest.fixture
def tree(tmp_path):
    """A folder with everything that is left out, and three images, one behind a linked folder."""
    root = tmp_path / "root"
    touch(root / "b.png", root / "a" / "1.png", tmp_path / "elsewhere" / "2.png")
    touch(root / ".snapshot" / "old.png", root / "a" / ".ipynb_checkpoints" / "1.png")
    touch(root / "Thumbs.db", root / ".hidden.png")
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (root / "a" / "circle").symlink_to(root)
    (root / "again.png").symlink_to(root / "b.png")
    os.mkfifo(root / "pipe")
    return root


def test_linked_folders_are_followed_and_all_else_is_counted(tree):
    left_out = collections.Counter()
    files = find_files(tree, left_out)
    names = [path.relative_to(tree).as_posix() for path in files]
    assert names == ["a/1.png", "again.png", "linked/2.png"]
    assert left_out == {
        image_files.HIDDEN: 4,
        image_files.DANGLING: 1,
        image_files.CIRCULAR: 1,
        image_files.TWICE: 1,
        image_files.NO_FILE: 1,
    }
    assert "1 links that lead nowhere" in image_files.counts_text(left_out)


def test_a_folder_that_cannot_be_read_is_counted(tree, monkeypatch):
    listed = type(tree).iterdir

    def iterdir(path):
        if path.name == "a":
            raise PermissionError(path)
        return listed(path)

    monkeypatch.setattr(type(tree), "iterdir", iterdir)
    left_out = collections.Counter()
    assert len(find_files(tree, left_out)) == 2
    assert left_out[image_files.UNREADABLE] == 1
    with pytest.raises(PermissionError):
        find_files(tree / "a", left_out)


def test_an_image_given_twice_counts_once(tree):
    left_out = collections.Counter()
    (tree / "a" / "circle").unlink()
    files = list_files([tree / "again.png", tree / "a", tree / "a" / "1.png", tree], left_out)
    assert [path.name for path in files] == ["again.png", "1.png", "2.png"]
    assert left_out[image_files.TWICE] == 4  # 1.png twice more, b.png and again.png once more
    # A hidden file that is named itself is meant.
    assert list_files([tree / ".hidden.png"], left_out) == [tree / ".hidden.png"]
    (tree / "only").mkdir()
    touch(tree / "only" / ".hidden.png")
    with pytest.raises(FileNotFoundError, match=r"no files below .*; left out: 1 hidden files"):
        list_files([tree / "only"], collections.Counter())


def test_names_of_any_bytes_become_text(tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9.png")
    assert image_files.text_of(path).endswith("caf\\xe9.png")
    assert image_files.text_of("größe%20.png") == "größe%20.png"


def test_every_nth_slice():
    assert image_files.every_nth(10, 1) == list(range(10))
    assert image_files.every_nth(10, 3) == [1, 4, 7]
    assert image_files.every_nth(2, 30) == [1]
    with pytest.raises(ValueError, match="every is 0"):
        image_files.every_nth(3, 0)

"""The log of a run, in a folder and in an object store."""

import pytest

from jaxcovid.workdir import metric_writer


@pytest.fixture
def written(monkeypatch):
    """Stands in for an object store; the contents of each write, one after the other."""
    contents = []
    write = metric_writer.write_atomically

    def note(path, content):
        contents.append(content.decode())
        write(path, content)

    monkeypatch.setattr(metric_writer, "write_atomically", note)
    monkeypatch.setattr(metric_writer, "is_remote", lambda path: True)
    monkeypatch.setattr(metric_writer.Writer, "_to_tensorboard", lambda *_: None)
    return contents


def steps(workdir):
    return [line["step"] for line in metric_writer.read(workdir)]


def test_an_object_store_gets_the_lines_together_and_all_before_a_checkpoint(tmp_path, written):
    writer = metric_writer.Writer(tmp_path, start_step=0)
    for step in range(1, 101):
        writer.scalars(step, {"loss": 1.0})
    writer.flush()  # before a checkpoint
    assert steps(tmp_path) == list(range(1, 101))
    writer.flush()
    assert len(written) == 2  # that of the start, empty, and this
    writer.scalars(101, {"loss": 1.0})
    del writer  # killed: what lies behind the checkpoint is trained again
    writer = metric_writer.Writer(tmp_path, start_step=100)
    writer.scalars(101, {"loss": 2.0})
    writer.close()
    assert steps(tmp_path) == list(range(1, 102))
    assert metric_writer.read(tmp_path)[-1]["loss"] == 2.0


def test_an_object_store_gets_the_lines_after_a_while(tmp_path, written, monkeypatch):
    writer = metric_writer.Writer(tmp_path, start_step=0)
    writer.scalars(1, {"loss": 1.0})
    assert steps(tmp_path) == []
    monkeypatch.setattr(metric_writer, "REMOTE_INTERVAL_S", 0.0)
    writer.scalars(2, {"loss": 1.0})
    assert steps(tmp_path) == [1, 2]
    writer.close()
    assert len(written) == 2


def test_a_file_gets_each_line_at_once(tmp_path):
    writer = metric_writer.Writer(tmp_path, start_step=0)
    for step in (1, 2):
        writer.scalars(step, {"loss": float("nan")})
        assert steps(tmp_path) == list(range(1, step + 1))
    writer.flush()
    writer.close()
    assert metric_writer.read(tmp_path)[0] == {"step": 1, "loss": None}

from jaxcovid.runtime import memory


def make_group(folder, limit, current, inactive):
    folder.mkdir(parents=True)
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{current}\n")
    (folder / "memory.stat").write_text(f"anon 5\ninactive_file {inactive}\n")


def test_the_tightest_of_all_groups_counts(tmp_path):
    assert memory.cgroup_bytes(tmp_path / "none", 900) == 900
    make_group(tmp_path / "job", 1000, 700, 100)
    make_group(tmp_path / "job" / "step", "max", 600, 0)
    assert memory.cgroup_bytes(tmp_path / "job" / "step", 900) == 400
    assert memory.cgroup_bytes(tmp_path / "job" / "step", 300) == 300
    make_group(tmp_path / "job" / "step" / "task", 500, 400, 50)
    assert memory.cgroup_bytes(tmp_path / "job" / "step" / "task", 900) == 150


def test_this_machine_has_some():
    assert 2**20 < memory.available_bytes() < 2**50

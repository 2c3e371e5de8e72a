"""What `launch/paper_tables.sh` trains, and its page, without training anything."""

import json
import os
import pathlib
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest

from launch import paper_data, paper_page, paper_plan
from launch.paper_methods import Method, Training, methods
from launch.paper_plan import trainings

REPOSITORY = pathlib.Path(__file__).parents[1]
ALL = ("covid_ct", "sars_cov_2_ct", "covid_chestxray", "chestxray14", "chest_xray_pneumonia")


def prepared(root, *names):
    for name in names:
        (root / "data" / name).mkdir(parents=True)
    return root


def printed(module, capsys, monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["script", *map(str, words)])
    module.main()
    return [shlex.split(line) for line in capsys.readouterr().out.splitlines() if line]


def write_result(folder, *, seed, shift):
    """The result of 40 images; the higher the shift, the better."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    positive = np.arange(40) % 2 == 1
    scores = 1 / (1 + np.exp(-rng.normal(shift * positive, 1)))
    lines = [f"{i},p{i // 2},{int(positive[i])},{scores[i]}" for i in range(40)]
    (folder / "predictions.csv").write_text("\n".join(["id,patient,label,probability", *lines]))
    score = {"value": 0.5 + 0.1 * shift, "low": 0.4, "high": 0.95}
    point = dict.fromkeys(("precision", "recall", "f", "accuracy"), score)
    metrics = {"auc": score, "positive_class": "COVID-19", "operating_points": {"youden": point}}
    metrics["run"] = {"trained on": "here", "dataset": "there"}
    (folder / "metrics.json").write_text(json.dumps(metrics))


def test_what_is_not_there_is_missing_with_its_reason(tmp_path):
    assert trainings(tmp_path) == []
    assert all(method.missing for method in methods(tmp_path))
    prepared(tmp_path, "covid_ct")
    found = {(method.table, method.name): method.missing for method in methods(tmp_path)}
    assert found["V", "Deep-CT-Net"] == ""
    assert found["IV", "Deep-CT-Net"] == "sars_cov_2_ct not prepared"
    assert found["VI", "Deep-CXR-Net"] == (
        "covid_chestxray and chestxray14 and chest_xray_pneumonia not prepared"
    )


def test_every_published_method_has_a_line(tmp_path):
    for number, table in paper_page.PUBLISHED.items():
        names = {method.name for method in methods(tmp_path, (number,))}
        assert {row.method for row in table.rows} <= names


def test_trainings_come_after_those_that_they_begin_with(tmp_path, capsys, monkeypatch):
    root, done = prepared(tmp_path, *ALL), set()
    for level in range(3):
        words = ("trainings", root, f"--level={level}", "--quick", "--seeds=2", "--config.a=1")
        for options in printed(paper_plan, capsys, monkeypatch, *words):
            assert "--config.a=1" in options
            if any("frozen" in option for option in options):  # what makes the method counts
                assert options.index("--config.epochs=1") > options.index("--config.a=1")
            assert "--config.preprocessing.size=128" in options
            assert not any("size=2" in option for option in options)
            begins = [x for x in options if x.startswith(("--config.init.we", "--config.parts"))]
            assert {x.partition("=")[2] for x in begins} <= done | {"weights/densenet121"}
            done.add(next(x for x in options if x.startswith("--workdir=")).partition("=")[2])
    names = {training.name for training in trainings(root)}
    assert done == {f"{root}/{name}/{seed}" for name in names for seed in range(2)}
    assert {training.level for training in trainings(root)} == {0, 1, 2}


def test_what_is_finished_is_not_done_again(tmp_path, capsys, monkeypatch):
    root = prepared(tmp_path, *ALL)

    def names(what):
        words = (what, root, "--tables=VI")
        options = printed(paper_plan, capsys, monkeypatch, *words)
        return [x for each in options for x in each if x.startswith("--workdir=")]

    pair = f"--workdir={root}/vi/resnet50/0,{root}/vi/vgg16/0"
    assert pair in names("evaluations")
    assert f"--workdir={root}/vi/vgg16/0" in names("trainings")
    write_result(root / "vi/resnet50/0/evaluation/test-ensemble", seed=0, shift=1)
    assert pair not in names("evaluations")
    assert f"--workdir={root}/vi/vgg16/0" not in names("trainings")
    assert f"--workdir={root}/vi/part1/0" in names("trainings")
    assert f"--workdir={root}/vi/covid_resnet128/0" in names("trainings")
    write_result(root / "vi/covid_resnet229/0/evaluation/test", seed=0, shift=1)
    assert f"--workdir={root}/vi/covid_resnet128/0" not in names("trainings")
    write_result(root / "vi/deep_cxr_net/0/evaluation/test", seed=0, shift=1)
    assert f"--workdir={root}/vi/part1/0" not in names("trainings")


@pytest.mark.parametrize("seeds", [1, 2])
def test_the_page(tmp_path, capsys, monkeypatch, seeds):
    monkeypatch.setattr(paper_page, "cost_of", lambda _: {"parameters": "7.0 M"})
    root = prepared(tmp_path, "covid_ct", "sars_cov_2_ct")
    for seed in range(seeds):
        for name, shift in (("deep_ct_net", 3), ("ref_29", 1)):
            folder = root / "v" / name / str(seed) / "evaluation" / "test"
            write_result(folder, seed=seed, shift=shift)
        folder = (
            root / "iv/sars_cov_2_ct/deep_ct_net" / str(seed) / "evaluation/covid_ct/original/test"
        )
        write_result(folder, seed=seed, shift=0)
        write_result(
            root / "ablation/no_attention" / str(seed) / "evaluation/test", seed=seed, shift=2
        )
    printed(paper_page, capsys, monkeypatch, root, f"--seeds={seeds}", "--quick")
    page, markdown = (root / "tables.html").read_text(), (root / "tables.md").read_text()
    assert page.count("<table") == markdown.count("\n|--") == 9
    named = [line for line in markdown.splitlines() if line.count("|") > 3]  # not those of costs
    rows = {line.split("|")[1].strip(): line for line in named}
    assert "0.800 (0.400 to 0.950)" in rows["as it is"]
    assert "p " in rows["Ref. 29, here"]
    assert "+" in rows["Ref. 29, here"]
    assert "-" in rows["no attention"]
    assert "0.817" in rows["Ref. 29, published"]
    assert markdown.count("7.0 M") == 3
    assert "not finished" in rows["Baseline of COVID-CT, here"]
    assert "CT-COV19 is not in the folder" in markdown
    order = "seed 0: Deep-CT-Net > Ref. 29"
    assert (f"{order}; seed 1" if seeds == 2 else order) in markdown
    assert "All trainings with --config.preprocessing.size=128" in markdown
    assert "Here: trained on here, tested on there" in markdown
    assert "trained on here" in page
    with pytest.raises(SystemExit, match=r"begun with the options --quick, not \(none\)"):
        printed(paper_page, capsys, monkeypatch, root)
    assert page.count("data:image/png") == 2


def test_the_data_at_hand_stand_beside_the_published(tmp_path, real_data):
    (tmp_path / "data").symlink_to(real_data)
    found = paper_data.surveys(tmp_path, list(methods(tmp_path)))
    first, second = paper_data.tables(found)
    rows = {row["data set"]: row for row in first}
    assert rows["COVID-CT [46], published"]["COVID-19 images"] == "349"
    if "covid_ct/original" in found:
        assert rows["covid_ct/original, here"]["COVID-19 images"] == "349"
        row = next(x for x in second if x["split"] == "test" and "covid_ct/" in x["data set"])
        assert row["images"] == "203"
        assert row["by class or finding"] == "COVID-19 98, NonCOVID 105"
    if "covid_chestxray/patient" in found:
        assert any(
            name.endswith("covid_chestxray/patient, ages") for name in paper_data.pictures(found)
        )
    assert {len(row) for row in first} == {3}


def test_p_is_corrected_for_the_number_of_comparisons():
    score = paper_page.Score(0.1, 0.1 - 1.96 * 0.05, 0.1 + 1.96 * 0.05)  # two standard errors
    alone = paper_page._holm([score], 10**6)
    both = paper_page._holm([score, None, score], 10**6)
    assert alone == ["+0.100 (+0.002 to +0.198), p 0.046"]
    assert both[1] == ""
    assert both[0].endswith("p 0.091")


def test_a_method_has_the_folder_of_its_evaluation(tmp_path):
    one = Training("a", "", "covid_ct")
    assert Method("V", "x").result(tmp_path, 0) is None
    method = Method("V", "x", (one,), classifier="prototypes")
    assert method.result(tmp_path, 0) is None
    write_result(tmp_path / "a/0/evaluation/test-prototypes", seed=0, shift=1)
    assert method.result(tmp_path, 0) == tmp_path / "a/0/evaluation/test-prototypes"


@pytest.mark.parametrize("slurm", ["", "--time=8:00:00 --gpus-per-node=1"])
def test_the_script_prepares_trains_evaluates_and_writes(tmp_path, slurm):
    """All commands are written down instead of run, but for the plan."""
    log, launch = tmp_path / "log", tmp_path / "launch"
    launch.mkdir()
    for name in ("paper_tables.sh", "paper_plan.py", "paper_methods.py"):
        shutil.copy(REPOSITORY / "launch" / name, launch)
    (launch / "environment.sh").write_text(
        "environment() { :; }\n"
        f'python() {{ if [ "$1" = launch/paper_plan.py ]; then "{sys.executable}" "$@"; '
        f'else echo "python $*" >>{log}; fi; }}\n'
        f'sbatch() {{ printf "%s|" sbatch "$@" >>{log}; echo >>{log}; }}\n'
    )
    source = tmp_path / "source"
    (source / "COVID-CT").mkdir(parents=True)
    (source / "chest_xray").mkdir()
    root = prepared(tmp_path / "root", "covid_ct")
    words = ["bash", str(launch / "paper_tables.sh"), str(source), str(root), "--tables=V"]
    words += ["--config.epochs=2"]
    subprocess.run(words, env={**os.environ, "SLURM": slurm}, check=True)
    lines = log.read_text().splitlines()
    prepare, where = "python -m jaxcovid.prepare", f"--data_dir={root}/data"
    assert lines[:2] == [
        f"{prepare} covid_ct --source={source}/COVID-CT {where}",
        f"{prepare} chest_xray_pneumonia --source={source}/chest_xray {where} --allow_missing",
    ]
    assert lines[-1] == f"python launch/paper_page.py {root} --seeds=1 --tables=V --config.epochs=2"
    evaluated = [line for line in lines if line.startswith("python -m jaxcovid.evaluate")]
    trained = [line for line in lines if line.startswith("python -m jaxcovid.train")]
    assert len(evaluated) == 4
    if not slurm:
        assert len(trained) == 4
        assert all("--config.epochs=2" in line.split() for line in trained)
        return
    assert not trained
    (submitted,) = [line for line in lines if line.startswith("sbatch")]
    options, elements = submitted.split("|launch/slurm.sbatch|--|")
    assert options == "sbatch|--wait|--array=0-3|--time=8:00:00|--gpus-per-node=1"
    assert len(elements.strip("|").split("|")) == 4

"""The benchmark command: turns and ratios, and that every mode measures the real thing."""

import json
import os
import sys

import cv2
import numpy as np
import pytest

from jaxcovid.benchmarks import growth_figures, network_speed, rounds, start_time, tables

SLEEPER = """
import sys, time
from jaxcovid.benchmarks import rounds
seconds = float(sys.argv[1])
rounds.serve({"name": sys.argv[1]}, lambda steps: time.sleep(steps * seconds), lambda: {"end": 1})
"""


def test_contest_takes_turns_and_gives_seconds_a_step():
    commands = {name: [sys.executable, "-c", SLEEPER, name] for name in ("0.02", "0.1")}
    timed = rounds.contest(commands, rounds=3, seconds=0.2)
    for name, (facts, times) in timed.items():
        assert facts == {"name": name, "end": 1}
        assert len(times) == 3
        assert min(times) >= float(name)
    assert min(timed["0.1"][1]) > max(timed["0.02"][1])


def test_contestant_that_fails_is_an_error():
    with pytest.raises(RuntimeError, match="status 3"):
        rounds.contest({"a": [sys.executable, "-c", "exit(3)"]}, rounds=1, seconds=1)


@pytest.mark.parametrize(("mode", "devices"), [("train", 1), ("infer", 2)])
def test_network(mode, devices, command, tmp_path):
    options = ("--batch=2", "--size=32", f"--devices={devices}", "--rounds=2", "--seconds=0.1")
    process = command("benchmark", mode, *options, f"--json={tmp_path / 'result.json'}")
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["images_per_s"] == pytest.approx(2 / result["s_per_step"])
    # A DenseNet-121 multiplies and adds 2.8e9 times for 224x224 pixels (Huang et al., table 2).
    forward = 2 * 2 * 2.8e9 * (32 / 224) ** 2
    ours = forward * {"train": 3, "infer": 1}[mode] / devices  # XLA counts those of a device
    assert result["flops"] == pytest.approx(ours, rel=0.25)
    assert "images/s" in process.stdout


def test_another_backbone_is_timed_alone(command, tmp_path):
    options = ("--backbone=efficientnet_lite0", "--batch=2", "--size=64", "--devices=1")
    result = tmp_path / "result.json"
    turns = ("--rounds=1", "--seconds=0.1", f"--json={result}")
    command("benchmark", "infer", *options, *turns)
    # It multiplies and adds 4.07e8 times for 224x224 pixels, as its authors say.
    forward = 2 * 2 * 4.07e8 * (64 / 224) ** 2
    assert json.loads(result.read_text())["flops"] == pytest.approx(forward, rel=0.25)
    process = command("benchmark", "train", *options, "--peer=linen", check=False)
    assert process.returncode == 2
    assert "the peer linen has the backbone densenet121 alone" in process.stderr


@pytest.mark.long
def test_growth_times_small_shapes_and_compiles_large_ones(tmp_path, capsys):
    rows = network_speed.time_growth(
        network_speed.Workload("train", devices=1),
        network_speed.Peer("linen"),
        rounds.Turns(rounds=1, seconds=0.1),
        timed=((2, 32),),
        compiled=((4, 32),),
    )["rows"]
    timed, compiled = rows
    assert (timed["batch"], timed["size"], timed["devices"]) == (2, 32, 1)
    assert timed["peer"]["framework"].startswith("linen")
    assert timed["peer"]["ratio"]["median"] > 0
    assert timed["peer"]["peak_gib"] > 0
    assert "s_per_step" not in compiled
    assert compiled["flops"] > timed["flops"]
    assert len(capsys.readouterr().out.splitlines()) == 2
    growth_figures.draw({"rows": rows}, tmp_path / "growth.png")
    assert cv2.imread(str(tmp_path / "growth.png")).shape == (600, 900, 3)


def test_tables_have_a_column_for_each_contestant():
    shape = {"batch": 4, "size": 64, "dtype": "float32", "devices": 1, "device": "cpu"}
    ours = {"mode": "train", **shape, "framework": "jax 1", "s_per_step": 0.5, "images_per_s": 8.0}
    ratio = {"median": 2.0, "low": 1.5, "high": 2.5}
    peer = {"framework": "linen 1", "s_per_step": 1.0, "images_per_s": 4.0, "ratio": ratio}
    lines = tables.speed_table({**ours, "peer": peer, "compile_s": 3.0}).splitlines()
    assert lines[0] == "train, batch 4, 64x64, float32, on 1 x cpu"
    cells = [line.split() for line in lines]
    assert ["jax", "1", "linen", "1"] in cells
    assert ["images/s", "8", "4"] in cells
    assert ["step", "500", "ms", "1e+03", "ms"] in cells
    assert ["compile", "3", "s"] in cells
    assert lines[-1] == "2.00 times the images/s of linen 1 (1.50 to 2.50)"
    start = {"mode": "start", "batch": 4, "cold_s": 40.04, "warm_s": 6.0}
    cells = [line.split() for line in tables.start_table(start).splitlines()]
    assert cells[-2:] == [["cold_s", "40.0"], ["warm_s", "6.0"]]


def test_start_counts_until_the_message_and_ends_the_command():
    program = "import sys, time; print('a\\nready', file=sys.stderr, flush=True); time.sleep({})"
    seconds = start_time.seconds_until(
        "ready", [sys.executable, "-c", program.format(60)], {**os.environ}
    )
    assert 0 < seconds < 30
    with pytest.raises(RuntimeError, match="a\nready"):
        start_time.seconds_until("no", [sys.executable, "-c", program.format(0)], {**os.environ})


def test_linen_is_a_peer_of_training_alone(command):
    process = command("benchmark", "infer", "--peer=linen", check=False)
    assert process.returncode == 2
    assert "only trains" in process.stderr


def test_input(command, tmp_path):
    random = np.random.default_rng(0)
    for i in range(8):
        image = random.integers(0, 256, (80, 100), np.uint8)
        assert cv2.imwrite(str(tmp_path / f"{i}.png"), image)
    options = ("--batch=4", "--size=64", "--rounds=2", "--seconds=0.1")
    process = command("benchmark", "input", f"--source={tmp_path}", *options)
    for contestant in ("decoding", "cached", "opencv"):
        assert f"times the images/s of {contestant}" in process.stdout
    process = command("benchmark", "input", f"--source={tmp_path / 'none'}", check=False)
    assert process.returncode == 1
    assert "Traceback" not in process.stderr.splitlines()[-1]

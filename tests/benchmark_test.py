"""The benchmark command: turns and ratios, and that every mode measures the real thing."""

import argparse
import json
import os
import sys

import cv2
import numpy as np
import pytest

from jaxcovid import benchmark
from jaxcovid.benchmarks import growth_figures, rounds

SLEEPER = """
import sys, time
from jaxcovid.benchmarks import growth_figures, rounds
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


@pytest.mark.long
@pytest.mark.parametrize(("mode", "devices"), [("train", 1), ("infer", 2)])
def test_network(mode, devices, command, tmp_path):
    options = ("--batch=2", "--size=32", f"--devices={devices}", "--rounds=2", "--seconds=0.1")
    process = command("benchmark", mode, *options, f"--json={tmp_path / 'found.json'}")
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["images_per_s"] == pytest.approx(2 / found["s_per_step"])
    # A DenseNet-121 multiplies and adds 2.8e9 times for 224x224 pixels (Huang et al., table 2).
    forward = 2 * 2 * 2.8e9 * (32 / 224) ** 2
    ours = forward * {"train": 3, "infer": 1}[mode] / devices  # XLA counts those of a device
    assert found["flops"] == pytest.approx(ours, rel=0.25)
    assert "images/s" in process.stdout


@pytest.mark.long
def test_growth_times_small_shapes_and_compiles_large_ones(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(benchmark, "_TIMED", ((2, 32),))
    monkeypatch.setattr(benchmark, "_COMPILED", ((4, 32),))
    options = argparse.Namespace(
        dtype="float32", devices=1, peer="linen", peer_python="", rounds=1, seconds=0.1
    )
    timed, compiled = benchmark.growth(options)["rows"]
    assert (timed["batch"], timed["size"], timed["devices"]) == (2, 32, 1)
    assert timed["peer"]["framework"].startswith("linen")
    assert timed["peer"]["ratio"]["median"] > 0
    assert timed["peer"]["peak_gib"] > 0
    assert "s_per_step" not in compiled
    assert compiled["flops"] > timed["flops"]
    assert len(capsys.readouterr().out.splitlines()) == 2
    growth_figures.draw({"rows": [timed, compiled]}, tmp_path / "growth.png")
    assert cv2.imread(str(tmp_path / "growth.png")).shape == (600, 900, 3)


def test_start_counts_until_the_message_and_ends_the_command():
    program = "import sys, time; print('a\\nready', file=sys.stderr, flush=True); time.sleep({})"
    seconds = benchmark._seconds_until(
        "ready", [sys.executable, "-c", program.format(60)], {**os.environ}
    )
    assert 0 < seconds < 30
    with pytest.raises(RuntimeError, match="a\nready"):
        benchmark._seconds_until("no", [sys.executable, "-c", program.format(0)], {**os.environ})


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
    assert "times the images/s of opencv" in process.stdout
    process = command("benchmark", "input", f"--source={tmp_path / 'none'}", check=False)
    assert process.returncode == 1
    assert "Traceback" not in process.stderr.splitlines()[-1]

"""Writes a trained network for use without jaxcovid: a folder with its files and a manifest."""

import dataclasses
import importlib
import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

import jaxcovid
from jaxcovid.data.datasets import Dataset
from jaxcovid.inference import out_of_distribution, training_facts
from jaxcovid.inference import predictor as predictors
from jaxcovid.inference.predictor import Predictor
from jaxcovid.models.build import MASKED
from jaxcovid.weights.export import manifest as manifests
from jaxcovid.weights.export.manifest import NETWORK_INPUT, PIXELS, Manifest
from jaxcovid.weights.export.program import Program, make_program
from jaxcovid.workdir.run import Run

FORMATS = ("stablehlo", "savedmodel", "onnx", "torch")
INPUTS = {"pixels": PIXELS, "network": NETWORK_INPUT}
# What a format needs beside jaxcovid, and the optional extra that installs it.
_NEEDS = {"onnx": ("onnx", "onnx"), "savedmodel": ("tensorflow", "tensorflow")}


def export(
    workdir: Path,
    format_name: str,
    *,
    output: Path | None = None,
    step: int | None = None,
    input_name: str = "pixels",
    int8: Dataset | None = None,
) -> Path:
    """Exports the network of a workdir.

    Args:
      workdir: of a training run.
      format_name: one of `FORMATS`.
      output: the folder to write, replaced if it holds an earlier export; None is
        `WORKDIR/export/FORMAT`.
      step: of the checkpoint; None is the best one by validation AUC.
      input_name: `pixels`, gray images of any size; or `network`, images after preprocessing.
      int8: of `onnx`: the data set of the training, with which weights and activations are reduced
        to 8 bits; None keeps float32.

    Returns:
      The folder.

    Raises:
      ValueError: not a workdir, a network that cannot be exported, a folder of something else, a
        library that is not installed, or 8 bits that cost too much.
      OSError: the folder cannot be written.
    """
    writer = _writer(format_name)
    if int8:
        _check_int8(int8, workdir, format_name, input_name)
    folder = output or workdir / "export" / format_name
    if folder.exists() and any(folder.iterdir()) and not (folder / manifests.FILE).exists():
        raise ValueError(f"{folder} holds something else; give an empty or a new --output")
    predictor = predictors.load(workdir, step=step)
    program = make_program(predictor, grouped_depthwise=format_name == "onnx")
    if format_name == "torch":
        input_name = "network"
    manifest = _describe(predictor, program, format_name, input_name)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    writer(program, manifest, folder)
    if detector := out_of_distribution.find_file(workdir):
        shutil.copyfile(detector, folder / out_of_distribution.FILE)
    if (workdir / training_facts.FILE).is_file():
        shutil.copyfile(workdir / training_facts.FILE, folder / training_facts.FILE)
    if card := _card(workdir, predictor.step):
        shutil.copyfile(card, folder / card.name)
    manifest.save(folder)
    if int8:
        from jaxcovid.weights.export.int8 import quantise

        (file,) = folder.glob("*.onnx")
        aucs = quantise(file, int8, predictor.task)
        dataclasses.replace(manifest, validation_auc=aucs).save(folder)
    return folder


def _card(workdir: Path, step: int) -> Path | None:
    """The model card of an evaluation of a checkpoint on the test split; None if there is none."""
    folder = workdir / "evaluation" / "test"
    metrics, card = folder / "metrics.json", folder / "model_card.md"
    if not metrics.is_file() or not card.is_file():
        return None
    return card if json.loads(metrics.read_text())["run"]["step"] == step else None


def _check_int8(dataset: Dataset, workdir: Path, format_name: str, input_name: str) -> None:
    """Refuses int8 of another format, or with other data than those of the training."""
    if (format_name, input_name) != ("onnx", "pixels"):
        raise ValueError("--int8 is of --format=onnx with --input=pixels")
    if importlib.util.find_spec("onnxruntime") is None:
        raise ValueError("--int8 needs onnxruntime: pip install 'jaxcovid[onnxruntime]'")
    run = Run.load(workdir)
    if not run.task.screens:
        raise ValueError("--int8 is judged by the AUC of a class, which this network has not")
    if run.config["objective"] in MASKED:
        raise ValueError(
            "--int8 is judged by the AUC of a class, which does not show what 8 bits do to masks; "
            "leave --int8 out for a network that segments"
        )
    if dataset.digest != run.dataset.digest:
        raise ValueError(
            f"--int8 needs the data of the training, {run.dataset.name} with the digest "
            f"{run.dataset.digest[:12]}...; {dataset.name} has {dataset.digest[:12]}..."
        )


def _writer(format_name: str) -> Callable[[Program, Manifest, Path], None]:
    """The function that writes a format.

    Raises:
      ValueError: a library that it needs is not installed.
    """
    module, extra = _NEEDS.get(format_name, ("jax", ""))
    if importlib.util.find_spec(module) is None:
        raise ValueError(f"--format={format_name} needs {module}: pip install 'jaxcovid[{extra}]'")
    return importlib.import_module(f"jaxcovid.weights.export.{format_name}").write


def _describe(
    predictor: Predictor, program: Program, format_name: str, input_name: str
) -> Manifest:
    """The manifest of a network, without checksums."""
    run, size = predictor.run, predictor.preprocessing.size
    inputs: dict[str, dict[str, Any]] = {
        "pixels": {
            "name": PIXELS,
            "dtype": "uint8",
            "shape": ["b", "h", "w"],
            "range": [0, 255],
            "meaning": "gray images of one size, CT through the window",
        },
        "network": {
            "name": NETWORK_INPUT,
            "dtype": "float32",
            "shape": ["b", size, size, 1],
            "range": [None, None],
            "meaning": "images after the five steps of preprocessing",
        },
    }
    meanings = {
        "probability": "of each class, calibrated by the temperature",
        "heatmap": "Grad-CAM of the first classes, each in 0 to 1",
        "masks": "of each pixel of the network's input, probability of lungs and of lesion",
    }
    shapes = jax.eval_shape(*program.entry(NETWORK_INPUT))
    outputs = {
        name: {"shape": ["b", *result.shape[1:]], "meaning": meanings[name]}
        for name, result in shapes.items()
    }
    dataset = run.dataset
    return Manifest(
        format=format_name,
        files={},
        input=inputs[input_name],
        outputs=outputs,
        task=run.task.kind,
        classes=run.task.outputs,
        thresholds=dict(predictor.thresholds),
        temperature=predictor.temperature,
        modality=predictor.modality,
        window=predictor.window,
        hu_offset=predictor.hu_offset,
        preprocessing=run.config["preprocessing"],
        network={"name": run.config["network"], **run.config["model"]},
        dataset={"name": dataset.name, "digest": dataset.digest, "citation": dataset.citation},
        step=predictor.step,
        version=jaxcovid.__version__,
        licence=f"The program is Apache-2.0. The weights were learned from {dataset.name}, whose "
        "terms apply to them.",
    )

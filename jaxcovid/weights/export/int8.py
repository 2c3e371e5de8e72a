"""Int8 for an exported ONNX file, by ONNX Runtime's own quantisation tool.

Weights get a scale for each channel, activations one from images of the training split. What it
costs is measured on the validation split, and refused if it is too much.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxcovid.data.datasets import Dataset, Record
from jaxcovid.data.decoding import decode_gray
from jaxcovid.data.labels import Task
from jaxcovid.inference.engines import LOADERS
from jaxcovid.metrics import scores
from jaxcovid.weights.export.manifest import PIXELS

LARGEST_LOSS = 0.005  # of the AUC on validation
_CALIBRATION_IMAGES = 128  # of the training split, at most
_OPERATORS = ("Conv", "Gemm", "MatMul")


def quantise(file: Path, dataset: Dataset, task: Task) -> dict[str, float]:
    """Replaces an ONNX file with pixels as input by its form in int8.

    Args:
      file: the model.
      dataset: that the network was trained on.
      task: of the network.

    Returns:
      The AUC on validation of both, "float32" and "int8".

    Raises:
      ValueError: the AUC falls by `LARGEST_LOSS` or more; the file stays as it was.
    """
    from onnxruntime import quantization
    from onnxruntime.quantization import shape_inference

    with tempfile.TemporaryDirectory() as folder:
        fused, small = Path(folder) / "fused.onnx", Path(folder) / "int8.onnx"
        # Folds normalisations into the convolutions before them; sizes of images stay symbolic.
        shape_inference.quant_pre_process(file, fused, skip_symbolic_shape=True)
        quantization.quantize_static(
            fused,
            small,
            _Calibration(dataset.source("train")),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            op_types_to_quantize=list(_OPERATORS),
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
        validation, encode = dataset.source("validation"), task.encoder(dataset.class_names)
        aucs = {
            name: _auc(path, validation, encode)
            for name, path in (("float32", file), ("int8", small))
        }
        if not aucs["float32"] - aucs["int8"] < LARGEST_LOSS:
            raise ValueError(
                f"in int8 the AUC on validation falls from {aucs['float32']:.4f} to "
                f"{aucs['int8']:.4f}, by {LARGEST_LOSS} or more; export without --int8"
            )
        file.write_bytes(small.read_bytes())
    return aucs


class _Calibration:
    """Images of a split, evenly spaced, one after the other, as the tool asks for them."""

    def __init__(self, source: Sequence[Record]) -> None:
        count = min(len(source), _CALIBRATION_IMAGES)
        chosen = np.linspace(0, len(source) - 1, count).round().astype(int).tolist()
        self._images = (decode_gray(source[i]["image"])[None] for i in chosen)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The input of the network with the next image; None after the last."""
        pixels = next(self._images, None)
        return None if pixels is None else {PIXELS: pixels}


def _auc(file: Path, source: Sequence[Record], encode: Any) -> float:
    engine = LOADERS["onnxruntime"](file)("probability")
    positive, probability = [], []
    for i in range(len(source)):
        pixels = decode_gray(source[i]["image"])[None]
        positive.append(encode(source[i])[0] > 0.5)
        probability.append(engine(pixels)[0, 0])
    return scores.auc(np.array(positive), np.array(probability))

"""What a validation asks of a network: probabilities of a whole split, and scores that rank it."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from jaxcovid.data import pipeline
from jaxcovid.data.preprocessing import Preprocessing
from jaxcovid.metrics import calibration, scores
from jaxcovid.metrics.thresholds import choose_thresholds
from jaxcovid.runtime.sharding import place_batch
from jaxcovid.workdir.checkpoints import History


def predict_source(
    weights: Mapping[str, Any],
    source: Sequence[pipeline.Record],
    *,
    forward: Any,
    preprocessing: Preprocessing,
    batch_size: int,
    mesh: Mesh,
    control: pipeline.Control | None = None,
    workers: int = 0,
) -> np.ndarray:
    """Probabilities float32 [n, outputs] of all records, in the order of `source`.

    Args:
      weights: the network's variables, replicated over the mesh.
      source: the records.
      forward: see `step.jit_forward`.
      preprocessing: the paper's steps.
      batch_size: images of a global batch; the last one is padded.
      mesh: the devices.
      control: see `pipeline.eval_batches`.
      workers: see `pipeline.eval_batches`.
    """
    batches = pipeline.eval_batches(
        source,
        preprocessing=preprocessing,
        batch_size=batch_size,
        control=control,
        workers=workers,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    found = [
        forward(weights, place_batch({"image": batch["image"]}, mesh)["image"]) for batch in batches
    ]
    # `make_mesh` has the devices in the order of the processes, so that rows come in the order of
    # the source over batches and processes; padding stands at the end.
    gathered = [multihost_utils.process_allgather(rows, tiled=True) for rows in found]
    return np.concatenate(gathered)[: len(source)]


def validation_scores(
    probabilities: np.ndarray,
    targets: np.ndarray,
    *,
    screening: bool,
    exclusive: bool,
    loss_weights: np.ndarray,
) -> dict[str, Any]:
    """AUC, loss, temperature and thresholds of probabilities and targets, both [n, outputs].

    Thresholds are those of probabilities after the temperature. The loss is that of the training:
    with its weights float [2, outputs], over known targets.

    The AUC is that of the first output if it screens for a class; else, of findings, the mean over
    those that are both present and absent in the split. Targets below 0 are not known.
    """
    known = targets >= 0
    aucs = [
        scores.auc(target[of] > 0.5, probability[of])
        for target, probability, of in zip(targets.T, probabilities.T, known.T, strict=True)
    ]
    temperature = calibration.fit_temperature(probabilities, targets, exclusive=exclusive)
    calibrated = calibration.apply_temperature(probabilities, temperature, exclusive=exclusive)
    return {
        "auc": float(aucs[0] if screening else np.nanmean(aucs)),
        "loss": calibration.loss(probabilities, targets, exclusive=exclusive, weights=loss_weights),
        "temperature": temperature,
        "thresholds": choose_thresholds(targets[:, 0] > 0.5, calibrated[:, 0]) if screening else {},
    }


def validation_workers(workers: int, images: int) -> int:
    """Worker processes of a validation: those of the training where their start pays, else 0.

    They are started anew at each validation, in 1.5 s for one and 2 to 5 s for four (two cores),
    while two threads prepare 600 to 1,200 images a second without any start.
    """
    return workers if workers > 2 and images >= 2000 else 0


def stops_early(history: History, patience: int) -> bool:
    """True if the best AUC is `patience` validations old; 0 never stops."""
    if not patience or not history:
        return False
    aucs = [entry["auc"] for entry in history]
    return len(aucs) - 1 - aucs.index(max(aucs)) >= patience

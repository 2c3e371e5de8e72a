"""Validation of a representation: its loss ranks checkpoints, a linear probe says what it is worth.

The loss needs no labels. The probe is logged beside it: of the few patients of a validation split
its AUC is too noisy to choose by, and a choice by labels would be no learning without them.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh
from sklearn import linear_model, pipeline, preprocessing

from jaxcovid.data.datasets import Record
from jaxcovid.data.pipeline import Loading
from jaxcovid.data.preprocessing import Preprocessing
from jaxcovid.inference.forward import features, jit_rows
from jaxcovid.inference.predict_source import predict_source
from jaxcovid.metrics import scores
from jaxcovid.models.representation_net import RepresentationNet
from jaxcovid.training.representation_losses import distillation_errors, vicreg
from jaxcovid.training.splits import Split
from jaxcovid.training.state_validator import StateValidator
from jaxcovid.training.validation import validation_workers
from jaxcovid.workdir.checkpoint_facts import Validation

_MOST_PROBED = 2000  # images of the training split that a probe learns from


class RepresentationValidator(StateValidator):
    """Validates a representation by its loss, and by a linear probe."""

    def __init__(
        self,
        training: Split,
        validation: Split,
        *,
        model: RepresentationNet,
        preprocessing: Preprocessing,
        mesh: Mesh,
        batch_size: int,
        workers: int,
    ) -> None:
        """Reads the targets of the records that the probe uses.

        Args:
          training: the split that the probe learns from.
          validation: the split that ranks checkpoints and that the probe is tested on.
          model: the network.
          preprocessing: the five steps, with what is random in training; views need it.
          mesh: the devices.
          batch_size: images of a global batch.
          workers: of the training, see `pipeline.train_batches`.

        Raises:
          ValueError: views of a validation split of one image.
        """
        if validation.views and len(validation.source) < 2:
            raise ValueError(
                "the validation split has one image, and views are compared with those of others; "
                "prepare the data set with more"
            )
        super().__init__(mesh)
        self._validation = validation
        self._loading = Loading(
            preprocessing=preprocessing, batch_size=batch_size, ablation=validation.ablation
        )
        self._workers = validation_workers(workers, len(validation.source))
        self._features = jit_rows(features, mesh, model=model)
        self._losses = jit_rows(_losses, mesh, model=model)
        every = math.ceil(len(training.source) / _MOST_PROBED)
        self._probed = [
            (_Thinned(split.source, step), _targets(_Thinned(split.source, step), split))
            for split, step in ((training, every), (validation, 1))
        ]

    def measure(
        self, step: int, variables: Mapping[str, Any]
    ) -> tuple[Validation, dict[str, float]]:
        """See `StateValidator`."""
        scalars = {"loss": self.loss(variables)}
        auc = self.probe_auc(variables)
        if not math.isnan(auc):
            scalars["probe_auc"] = auc
        return Validation(step=step, auc=math.nan, loss=scalars["loss"]), scalars

    def loss(self, variables: Mapping[str, Any]) -> float:
        """The loss of the training over the whole validation split, as if it were one batch."""
        split = self._validation
        rows = predict_source(
            variables,
            split.source,
            forward=self._losses,
            loading=dataclasses.replace(self._loading, workers=self._workers, views=split.views),
            mesh=self._mesh,
        )
        if "embeddings" in rows:
            return float(vicreg(rows["embeddings"])[0])
        return float(np.mean([error.mean() for error in rows.values()]))

    def probe_auc(self, variables: Mapping[str, Any]) -> float:
        """The AUC of the positive class on the validation split, of a logistic regression.

        It reads the features of images that are not changed, and learns from at most 2,000 of the
        training split. NaN if a split lacks the class, or all others.
        """
        if any(len(np.unique(known[known >= 0])) < 2 for _, known in self._probed):
            return math.nan
        read, targets = [], []
        for source, known in self._probed:
            rows = predict_source(
                variables, source, forward=self._features, loading=self._loading, mesh=self._mesh
            )
            read.append(rows[known >= 0])
            targets.append(known[known >= 0] > 0.5)
        probe = pipeline.make_pipeline(
            preprocessing.StandardScaler(), linear_model.LogisticRegression(max_iter=2000)
        )
        probe.fit(read[0], targets[0])
        return scores.auc(targets[1], probe.decision_function(read[1]))


class _Thinned(Sequence[Record]):
    """Every so many records of a split."""

    def __init__(self, source: Sequence[Record], every: int) -> None:
        self._source, self._every = source, every

    def __len__(self) -> int:
        return math.ceil(len(self._source) / self._every)

    def __getitem__(self, index: int) -> Record:
        return self._source[index * self._every]


def _targets(source: Sequence[Record], split: Split) -> np.ndarray:
    """1, 0 or below 0 for each record of the positive class, of another, unknown: float [n]."""
    return np.array([split.encode(source[i])[0] for i in range(len(source))])


def _losses(
    variables: Mapping[str, Any], image: jax.Array, *, model: nn.Module
) -> dict[str, jax.Array]:
    """What the loss is a function of, for each row: `embeddings`, or the error of each target."""
    logits = model.apply(variables, image, train=False, method="all_logits")
    if "embeddings" in logits:
        return logits
    return distillation_errors(logits["students"], logits["teachers"])

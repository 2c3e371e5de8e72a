"""How well do facts that have nothing to do with the disease predict the class?

A logistic model on facts of the file and the picture as a whole, trained on the training split and
tested on the test split. A network can learn the same, and a score near this one is no evidence
that it looks at lungs (DeGrave et al. 2021, doi 10.1038/s42256-021-00338-7).
"""

from collections.abc import Mapping, Sequence

import numpy as np
from sklearn import feature_extraction, linear_model, pipeline, preprocessing

from jaxcovid.audits.check import FAILED, PASSED, WARNING, Check
from jaxcovid.audits.items import Item
from jaxcovid.data.datasets import Dataset
from jaxcovid.metrics import bootstrap

# Above this, an AUC's lower bound is a failure: the facts give the class away.
TELLING_AUC = 0.6


def check_confounders(
    dataset: Dataset, items: Sequence[Item], *, positive: str, resamples: int = 2000
) -> Check:
    """Computes the test AUC, with interval, of each group of facts and of all together.

    Args:
      dataset: needs the splits train and test.
      items: all of its images.
      positive: the class or finding that is separated from the rest.
      resamples: bootstrap resamples of patients.
    """
    name = "facts beside the disease do not tell the class"
    truth = np.array([_is(dataset, item, positive) for item in items])
    split = np.array([item.split for item in items])
    train, test = split == "train", split == "test"
    for one in (train, test):
        if not 0 < truth[one].sum() < one.sum():
            return Check(name, WARNING, f"not tested: a split has no {positive}, or nothing else")
    groups: dict[str, list[Mapping[str, float | str]]] = {}
    for item in items:
        for group, facts in {**item.file, **_patient_facts(item)}.items():
            groups.setdefault(group, []).append(facts)
    groups["all"] = [
        {k: v for facts in facts_of_item for k, v in facts.items()}
        for facts_of_item in zip(*groups.values(), strict=True)
    ]
    scores = {
        group: (truth[test], _predict(facts, truth, train)[test]) for group, facts in groups.items()
    }
    patients = [item.record["patient"] for item in items if item.split == "test"]
    intervals = bootstrap.intervals(patients, aucs=scores, ratios={}, resamples=resamples)
    # Facts that are the same for all images have an AUC of .5 and no interval.
    rows = [
        {
            "facts": group,
            **{
                name: None if np.isnan(getattr(score, bound)) else round(getattr(score, bound), 3)
                for name, bound in (("AUC", "value"), ("low", "low"), ("high", "high"))
            },
        }
        for group, score in intervals.items()
    ]
    measured = [row for row in rows if row["low"] is not None]
    if not measured:
        return Check(name, PASSED, "all facts are the same for all images", rows)
    best = max(measured, key=lambda row: row["low"])
    verdict = PASSED if best["low"] <= 0.5 else WARNING
    if best["low"] > TELLING_AUC:
        verdict = FAILED
    summary = (
        f"{positive} is predicted by {best['facts']} with a test AUC of {best['AUC']:.3f} "
        f"({best['low']:.3f} to {best['high']:.3f})"
    )
    return Check(name, verdict, summary, rows)


def _is(dataset: Dataset, item: Item, positive: str) -> bool:
    if dataset.class_names:
        return dataset.class_names[item.record["label"]] == positive
    return item.record["findings"][positive] == 1


def _patient_facts(item: Item) -> dict[str, dict[str, float | str]]:
    """Source, view, sex and age, where the data set has them."""
    facts: dict[str, dict[str, float | str]] = {}
    for name in ("source", "view", "sex"):
        if name in item.record:
            facts[name] = {name: item.record[name] or "unknown"}
    if "age" in item.record:
        age = item.record["age"]
        facts["age"] = {"age": float(max(age, 0)), "age known": float(age >= 0)}
    return facts


def _predict(
    facts: Sequence[Mapping[str, float | str]], truth: np.ndarray, train: np.ndarray
) -> np.ndarray:
    """Fits a model to the training images; returns decision values of all, float64 [n]."""
    model = pipeline.make_pipeline(
        feature_extraction.DictVectorizer(sparse=False),
        preprocessing.StandardScaler(),
        linear_model.LogisticRegression(max_iter=2000),
    )
    model.fit([row for row, use in zip(facts, train, strict=True) if use], truth[train])
    return model.decision_function(facts)

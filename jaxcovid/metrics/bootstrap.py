"""Intervals for scores over images when images of one patient resemble each other.

Patients, not images, are drawn with replacement: a draw is a vector of multiplicities, an
image weighs as much as its patient. The resamples give the standard error; the interval is
laid on the logit scale around the value itself:

    logit(v) +- t * se / (v * (1 - v)),    t the 97.5 % point of Student's t, patients - 1 df

(for the AUC compared with others by Kottas, Kuss & Zapf 2014, doi 10.1186/1471-2288-14-26; for
proportions of clustered samples the `xlogit` method of `svyciprop` in R's survey package). The
plain percentile interval is not used: it is too short near 1, where screening results lie. How
often each held the truth in 1,000 simulated data sets (patients of 1 to 4 images whose scores
correlate by .6, 400 resamples); `tests/metrics/bootstrap_test.py` repeats the first two:

    patients   true AUC   percentile   this one     true accuracy   percentile   this one
          30       .983         .767       .969              .933         .877       .979
         100       .839         .938       .949              .759         .935       .951
         100       .983         .862       .927              .933         .920       .948
         300       .839         .951       .955              .759         .947       .950

(Half of the patients are positive; in the third line three in ten.)
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from jaxcovid.metrics.interval import LEVEL, Score

_TAIL = (1 - LEVEL) / 2
_CHUNK_ELEMENTS = 1_000_000  # 8 MB an array: larger ones leave the cache and gain nothing


@dataclasses.dataclass(frozen=True)
class _AucColumns:
    """What an AUC is the mean of, column by column: arrays [n, k] of labels, scores, known."""

    positive: np.ndarray
    score: np.ndarray
    known: np.ndarray

    def weighted(self, weights: np.ndarray) -> np.ndarray:
        """The mean AUC, float64 [r], at weights [r, n]."""
        columns = zip(self.positive.T, self.score.T, self.known.T, strict=True)
        aucs = [
            weighted_auc(positive[known], score[known], weights[:, known])
            for positive, score, known in columns
        ]
        return np.mean(aucs, axis=0)

    def disjoint_pairs(self, patient: np.ndarray) -> int:
        """The least number, over the columns, of patients int [n] with the rarer label."""
        return min(
            np.unique(patient[known & (positive == label)]).size
            for positive, known in zip(self.positive.T, self.known.T, strict=True)
            for label in (True, False)
        )


def multiplicities(patients: int, resamples: int, seed: int, rows: int) -> Iterator[np.ndarray]:
    """Draws how often each patient appears in each resample.

    Args:
      patients: number of patients.
      resamples: number of resamples.
      seed: of the generator; the draws do not depend on `rows`.
      rows: resamples in a chunk.

    Yields:
      float64 [<= rows, patients], every row sums to `patients`.
    """
    generator = np.random.default_rng(seed)
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        drawn = generator.integers(patients, size=(count, patients))
        drawn += np.arange(count)[:, None] * patients
        flat = np.bincount(drawn.ravel(), minlength=count * patients)
        yield flat.reshape(count, patients).astype(np.float64)


def weighted_auc(positive: np.ndarray, score: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Area under the ROC curve of weighted images: the Mann-Whitney statistic, ties count half.

    Args:
      positive: bool [n].
      score: float [n].
      weights: float [r, n], one set of weights a row.

    Returns:
      float64 [r]; NaN where one class has no weight.
    """
    negative_scores = score[~positive]
    order = np.argsort(negative_scores, kind="stable")
    negative_scores = negative_scores[order]
    below = np.zeros((len(weights), negative_scores.size + 1))
    np.cumsum(weights[:, np.flatnonzero(~positive)[order]], axis=1, out=below[:, 1:])
    first = np.searchsorted(negative_scores, score[positive], side="left")
    last = np.searchsorted(negative_scores, score[positive], side="right")
    of_positives = weights[:, positive]
    wins = np.einsum("rp,rp->r", of_positives, below[:, first] + below[:, last]) / 2
    pairs = of_positives.sum(axis=1) * below[:, -1]
    return np.divide(wins, pairs, out=np.full(len(weights), np.nan), where=pairs > 0)


def intervals(
    patients: Sequence[str],
    *,
    aucs: Mapping[str, tuple[np.ndarray, np.ndarray]],
    ratios: Mapping[str, tuple[np.ndarray, np.ndarray]],
    known: Mapping[str, np.ndarray] | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Score]:
    """Values and 95 % intervals of several scores over the same resamples of patients.

    Args:
      patients: n patient ids, one an image.
      aucs: name -> (positive bool [n] or [n, k], score float [n] or [n, k]); with k columns the
        score is the mean of their AUCs.
      ratios: name -> (numerator [n], denominator [n]) with 0 <= numerator <= denominator; the score
        is the ratio of their sums (recall: true positives over positives).
      known: name of an AUC -> bool of the shape of its scores, False for those that do not count.
      resamples: at least 2.
      seed: of the resamples.

    Returns:
      The scores by name, each in [0, 1].

    Raises:
      ValueError: fewer than 2 resamples, or no image.
    """
    if resamples < 2:
        raise ValueError(f"resamples is {resamples}; an interval needs at least 2, better 2000")
    if not len(patients):
        raise ValueError("no image to resample")
    names, patient = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    columns = {name: _columns(*pair, (known or {}).get(name)) for name, pair in aucs.items()}
    # A ratio needs only sums over patients, so that all of them are one matrix product.
    sums = np.zeros((names.size, 2 * len(ratios)))
    for column, part in enumerate(part for ratio in ratios.values() for part in ratio):
        sums[:, column] = np.bincount(patient, part, names.size)

    def scores(weights: np.ndarray) -> dict[str, np.ndarray]:
        """Every score, [r], at the patients' weights [r, patients]."""
        of_images = weights[:, patient]
        mean_aucs = {name: column.weighted(of_images) for name, column in columns.items()}
        return mean_aucs | _weighted_ratios(weights, sums, ratios)

    values = scores(np.ones((1, names.size)))
    chunks = [scores(weights) for weights in _resamples(patient, resamples, seed)]
    informative = {name: column.disjoint_pairs(patient) for name, column in columns.items()}
    for name, (_, bottom) in ratios.items():
        informative[name] = np.unique(patient[bottom > 0]).size
    return {
        name: _interval(
            float(values[name][0]),
            np.concatenate([chunk[name] for chunk in chunks]),
            patients=names.size,
            informative=informative[name],
        )
        for name in (*aucs, *ratios)
    }


def _columns(
    positive: np.ndarray, score: np.ndarray, known: np.ndarray | None = None
) -> _AucColumns:
    """The columns of arrays [n] or [n, k]; all are known by default."""
    known = np.ones(positive.shape, bool) if known is None else known
    return _AucColumns(*(array.reshape(len(positive), -1) for array in (positive, score, known)))


def _weighted_ratios(
    weights: np.ndarray, sums: np.ndarray, names: Iterable[str]
) -> dict[str, np.ndarray]:
    """Every ratio, [r], at weights [r, patients]; sums [patients, 2 ratios], top beside bottom."""
    totals = weights @ sums
    return {
        name: np.divide(
            totals[:, 2 * index],
            totals[:, 2 * index + 1],
            out=np.full(len(weights), np.nan),
            where=totals[:, 2 * index + 1] > 0,
        )
        for index, name in enumerate(names)
    }


def _resamples(patient: np.ndarray, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Weights [r, patients], as many at once as fit a cache with their images' patients int [n]."""
    rows = max(1, _CHUNK_ELEMENTS // patient.size)
    return multiplicities(patient.max() + 1, resamples, seed, rows)


def auc_difference(
    patients: Sequence[str],
    positive: np.ndarray,
    scores: tuple[np.ndarray, np.ndarray],
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> Score:
    """The second AUC less the first, of two networks on the same images, resampled together.

    Args:
      patients: n patient ids, one an image.
      positive: bool [n].
      scores: of the two networks, float [n] each.
      resamples: at least 2.
      seed: of the resamples.

    Returns:
      The difference, -1 to 1, and its interval by the standard error of the resamples and
      Student's t; NaN where it is undefined.
    """
    from scipy.special import stdtrit

    names, patient = np.unique(np.asarray(patients, dtype=str), return_inverse=True)

    def difference(weights: np.ndarray) -> np.ndarray:
        first, second = (weighted_auc(positive, score, weights[:, patient]) for score in scores)
        return second - first

    value = float(difference(np.ones((1, names.size)))[0])
    chunks = [difference(weights) for weights in _resamples(patient, resamples, seed)]
    resampled = np.concatenate(chunks)
    defined = resampled[~np.isnan(resampled)]
    if names.size < 2 or defined.size < 2:
        return Score(value, float("nan"), float("nan"))
    error = defined.std(ddof=1) * np.sqrt(names.size / (names.size - 1))
    half = float(stdtrit(names.size - 1, 1 - _TAIL) * error)
    return Score(value, value - half, value + half)


def _interval(value: float, resampled: np.ndarray, *, patients: int, informative: int) -> Score:
    """The interval of one score from its resamples [r]; see the module's docstring.

    At a value of exactly 0 or 1 no resample differs, and the standard error says nothing. There the
    bound is the exact binomial one, .025 ** (1 / m): for a ratio m is the number of patients in its
    denominator, for an AUC the number of patients of the rarer class (a flawless ranking orders m
    disjoint pairs of patients rightly, which happens with probability AUC ** m).
    """
    from scipy.special import stdtrit  # training imports this file and needs no interval

    defined = resampled[~np.isnan(resampled)]
    low = high = np.nan
    if value in (0.0, 1.0) and informative:
        bound = _TAIL ** (1 / informative)
        low, high = (bound, 1.0) if value == 1 else (0.0, 1 - bound)
    elif 0 < value < 1 and patients > 1 and defined.size > 1 and np.ptp(defined) > 0:
        error = defined.std(ddof=1) * np.sqrt(patients / (patients - 1))
        half = stdtrit(patients - 1, 1 - _TAIL) * error / (value * (1 - value))
        centre = np.log(value / (1 - value))
        low, high = (0.5 + 0.5 * np.tanh((centre + side * half) / 2) for side in (-1, 1))
    return Score(value, float(low), float(high), int(resampled.size - defined.size))

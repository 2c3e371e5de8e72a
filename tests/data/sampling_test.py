import collections

import numpy as np
import pytest
from pipeline_test import assert_equal, records, take, train

from jaxcovid.data.sampling import Stratum, endless_order

STRATA = (Stratum([0, 1, 2, 3], 3.0), Stratum([5, 6, 7], 1.0), Stratum([8], 1.0))


def first(count, strata=STRATA, seed=0):
    order = endless_order(10, seed=seed, strata=strata)
    return [order[i] for i in range(count)]


def test_every_batch_has_the_shares():
    positions = np.array(first(4000)).reshape(-1, 10)
    for stratum in STRATA:
        counts = np.isin(positions, stratum.positions).sum(1)
        wanted = 10 * stratum.share / 5
        assert counts.min() >= wanted - 1
        assert counts.max() <= wanted + 1
        assert counts.mean() == pytest.approx(wanted, rel=0.01)
    assert not np.isin([4, 9], positions).any()


@pytest.mark.parametrize("shares", [(0.9, 0.07, 0.03), (425.0, 1739.0, 390.0)])
def test_uneven_shares_are_those_wanted(shares):
    strata = [Stratum([10 * i + j for j in range(5)], s) for i, s in enumerate(shares)]
    counts = np.bincount(np.array(first(5000, strata)) // 10)
    np.testing.assert_allclose(counts / 5000, np.array(shares) / sum(shares), rtol=0.02)


def test_a_stratum_gives_each_record_once_before_any_again_in_another_order():
    drawn = [position for position in first(400) if position < 4]
    passes = np.array(drawn[: len(drawn) // 4 * 4]).reshape(-1, 4)
    assert (np.sort(passes, axis=1) == [0, 1, 2, 3]).all()
    assert len(collections.Counter(map(tuple, passes.tolist()))) > 10


def test_strata_of_one_size_are_shuffled_apart_and_seeds_differ():
    strata = [Stratum(range(30), 1), Stratum(range(30, 60), 1)]
    positions = np.array(first(60, strata))
    assert not np.array_equal(positions[positions < 30], positions[positions >= 30] - 30)
    assert first(60, strata) != first(60, strata, seed=1)


def test_batches_are_a_function_of_seed_and_step_for_any_hosts():
    source = records(10)
    whole = take(train(source, strata=STRATA), 8)
    assert_equal(whole[5:], take(train(source, strata=STRATA, start_step=5), 3))
    shares = [
        take(train(source, strata=STRATA, process_index=p, process_count=2), 8) for p in range(2)
    ]
    joined = [
        {key: np.concatenate([share[i][key] for share in shares]) for key in whole[0]}
        for i in range(8)
    ]
    assert_equal(whole, joined)


@pytest.mark.long
def test_batches_are_the_same_for_any_number_of_workers():
    source = records(10)
    expected = take(train(source, strata=STRATA), 6)
    assert_equal(expected[2:], take(train(source, strata=STRATA, start_step=2, workers=2), 4))

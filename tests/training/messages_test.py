"""What a start warns of."""

from types import SimpleNamespace

import pytest

from jaxcovid.runtime import sharding
from jaxcovid.training import messages


@pytest.mark.parametrize(
    ("slices", "batch_norm", "warns"),
    [(2, "global", True), (2, "groups:4", False), (2, "per_device", False), (1, "global", False)],
)
def test_batch_normalisation_over_slices_is_a_warning(slices, batch_norm, warns, caplog):
    mesh = sharding.make_mesh(8, slices=slices)
    messages.warn_of_slow_network(SimpleNamespace(mesh=mesh, batch_norm=batch_norm))
    assert warns == ("over 2 slices" in caplog.text)
    assert warns == ("--config.batch_norm=groups:4 stays within a slice" in caplog.text)

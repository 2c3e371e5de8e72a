"""How the tests of the fused form run it."""

import pytest

from jaxcovid.models.fused.execution import Execution

EXECUTIONS = {
    "cpu, whole": Execution("cpu"),
    "cpu, image by image": Execution("cpu", chunk_bytes=1),
    "gpu": Execution("gpu"),
    "tpu": Execution("tpu"),
}


@pytest.fixture(params=EXECUTIONS)
def execution(request):
    """Each way in turn."""
    return EXECUTIONS[request.param]

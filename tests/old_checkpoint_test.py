"""A workdir of the first release, kept in `golden/workdir`: later versions must read it.

`run.json` has format 2, its checkpoint format 1. Six steps of a narrow network on made-up images.
"""

import pathlib
import shutil

import numpy as np
import optax

from jaxcovid.inference import frozen_parts, predictor
from jaxcovid.runtime import sharding
from jaxcovid.training.optimizer import make_optimizer
from jaxcovid.training.state import jit_init_state
from jaxcovid.workdir.checkpoints import Checkpoints

WORKDIR = pathlib.Path(__file__).parent / "golden" / "workdir"
PROBABILITIES = [0.5957848, 0.5955538, 0.5986944]
WHEN_TO_UPDATE = (
    "golden/workdir is what users of the first release have on their disks: never write it anew, "
    "and change PROBABILITIES only if the released code itself computed them wrongly. Mend the "
    "reading of old workdirs, or migrate them and say so in the documentation."
)


def images():
    rows, columns = np.mgrid[:80, :96]
    return [np.uint8(127 + 120 * np.sin(rows / (4 + i)) * np.cos(columns / 9)) for i in range(3)]


def test_it_predicts_as_it_did():
    found = predictor.load(WORKDIR)
    assert found.outputs == ("COVID-19",)
    probabilities = found.probabilities(images())[:, 0]
    np.testing.assert_allclose(probabilities, PROBABILITIES, atol=1e-5, err_msg=WHEN_TO_UPDATE)


def test_a_training_can_go_on_from_it(tmp_path):
    shutil.copytree(WORKDIR, tmp_path / "w")
    config = predictor.load(WORKDIR).facts["config"]
    options = config["optimizer"]
    target = jit_init_state(
        sharding.make_mesh(1),
        model=frozen_parts.make_model(config, outputs=1, parts={}),
        optimizer=make_optimizer(
            optax.constant_schedule(options["learning_rate"]),
            weight_decay=options["weight_decay"],
            head_rate_factor=options["head_rate_factor"],
            accumulate_steps=options["accumulate_steps"],
        ),
        image_size=config["preprocessing"]["size"],
        seed=0,
    ).eval_shape()
    with Checkpoints(tmp_path / "w") as saver:
        state, history = saver.restore_latest(target)
    assert int(state.step) == 6, WHEN_TO_UPDATE
    assert [entry["step"] for entry in history] == [1, 2, 3, 4, 5, 6]
    counts = optax.tree.get_all_with_path(state.opt_state, "count")
    assert {int(count) for _, count in counts} == {6}

"""A workdir of the first release, kept in `golden/workdir`: later versions must read it.

`run.json` has format 2, its checkpoint format 1. Six steps of a narrow network on made-up images.
"""

import pathlib
import shutil

import numpy as np
import optax

import jaxcovid
from jaxcovid.inference import frozen_parts
from jaxcovid.runtime import sharding
from jaxcovid.training.optimizer import make_optimizer
from jaxcovid.training.state import jit_init_state
from jaxcovid.workdir.checkpoints import Checkpoints
from jaxcovid.workdir.run import Run

WORKDIR = pathlib.Path(__file__).parents[1] / "golden" / "workdir"
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
    network = jaxcovid.load(WORKDIR)
    assert network.outputs == ("COVID-19",)
    probabilities = network.probabilities(images())[:, 0]
    np.testing.assert_allclose(probabilities, PROBABILITIES, atol=1e-5, err_msg=WHEN_TO_UPDATE)


def test_a_training_can_go_on_from_it(tmp_path):
    shutil.copytree(WORKDIR, tmp_path / "w")
    run, mesh = Run.load(WORKDIR), sharding.make_mesh(1)
    options = run.config["optimizer"]
    target = jit_init_state(
        mesh,
        model=frozen_parts.model_with_parts(run, {}),
        optimizer=make_optimizer(
            optax.constant_schedule(options["learning_rate"]),
            weight_decay=options["weight_decay"],
            head_lr_multiplier=options["head_lr_multiplier"],
            accumulate_steps=options["accumulate_steps"],
        ),
        image_size=run.preprocessing.size,
        seed=0,
    ).eval_shape()
    with Checkpoints(tmp_path / "w", sharding.replicated_sharding(mesh)) as saver:
        restored = saver.restore_latest(target.items)
    state = target.restored(restored.step, restored.items)
    assert int(state.step) == 6, WHEN_TO_UPDATE
    assert [entry.step for entry in restored.history] == [1, 2, 3, 4, 5, 6]
    counts = optax.tree.get_all_with_path(state.opt_state, "count")
    assert {int(count) for _, count in counts} == {6}

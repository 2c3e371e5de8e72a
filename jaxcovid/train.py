"""Trains a network, or resumes where an earlier call of the same command was ended.

python -m jaxcovid.train --config=configs/covid_ct.py --workdir=runs/covid_ct
python -m jaxcovid.train --config=configs/covid_ct.py:scratch --workdir=runs/b \
    --config.batch_size=32
"""

import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import ml_collections
from absl import app, flags

from jaxcovid.runtime import cli, config_files
from jaxcovid.runtime.files import as_path
from jaxcovid.runtime.user_errors import user_errors

if TYPE_CHECKING:  # it takes seconds to import
    from jaxcovid.training.loop import Result

_CONFIG = config_files.define_flag()
_WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run: checkpoints, metrics, figures")
_COORDINATOR = flags.DEFINE_string(
    "coordinator_address", None, "HOST:PORT of the first of several processes (default: detected)"
)
_PROCESSES = flags.DEFINE_integer("num_processes", None, "how many processes; 1 detects nothing")
_PROCESS = flags.DEFINE_integer("process_id", None, "which of them this is, from 0")
_DATA_DIR = flags.DEFINE_string("data_dir", None, cli.DATA_DIR_HELP)


def run(
    config: ml_collections.ConfigDict,
    *,
    workdir: Path,
    data_dir: str | None = None,
    command: str | None = None,
) -> "Result":
    """Trains as `config` says; see `configs/default.py` for every option.

    Args:
      config: the resolved configuration.
      workdir: created if missing; resumed if it belongs to the same run.
      data_dir: where data sets are kept; None is `TFDS_DATA_DIR` or `~/tensorflow_datasets`.
      command: the command line, for reports; None if there was none.

    Returns:
      How it ended.

    Raises:
      ValueError: an option or combination that cannot work, or a workdir of another run.
      OSError: a data set that is not prepared, or a folder that cannot be written.
      TrainingError: the loss is not finite.
    """
    from jaxcovid.audits.copies import leave_out_copies
    from jaxcovid.data.opening import open_dataset
    from jaxcovid.training import experiment, startup

    # Everything that can be refused is refused before anything is written.
    experiment.check_options(config)
    dataset = open_dataset(config.dataset, data_dir)
    dataset = leave_out_copies(dataset, search=config.mixture.copies)
    planned = experiment.make_experiment(config, dataset, workdir, command=command)
    return startup.train(planned, dataset, workdir)


def main(argv: Sequence[str]) -> None:
    """Trains as the command line says."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}; options start with --")
    with user_errors():
        cli.start(_COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
        result = run(
            _CONFIG.value,
            workdir=as_path(_WORKDIR.value),
            data_dir=_DATA_DIR.value,
            command=cli.typed("train", sys.argv[1:]),
        )
    if result.terminated:
        sys.exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    cli.use_huge_pages()
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main, flags_parser=config_files.parse_flags)

"""Where the numbers of a report come from: the run, the data, their audit, and the commands."""

from collections.abc import Sequence

import jaxcovid
from jaxcovid.audits.audit import FILE as AUDIT_FILE
from jaxcovid.data.datasets import Dataset, prepare_command
from jaxcovid.data.joined import member_names
from jaxcovid.evaluation.result import AuditedCheck, AuditSummary, RunSummary
from jaxcovid.evaluation.scored import ScoredSplit
from jaxcovid.inference.predictor import Predictor
from jaxcovid.runtime.files import read_json


def summarize_run(scored: ScoredSplit, predictors: Sequence[Predictor], command: str) -> RunSummary:
    """What was evaluated, and how to repeat it.

    Args:
      scored: the split.
      predictors: the network, or those of an ensemble.
      command: the command line of the evaluation.
    """
    run, dataset = scored.predictor.run, scored.dataset
    names = dict.fromkeys([run.dataset.name, dataset.name])
    outputs = scored.predictions.outputs
    return RunSummary(
        dataset=dataset.name,
        digest=dataset.digest,
        citation=dataset.citation,
        trained_on=run.dataset.name,
        classes={name: name if name in outputs else "the rest" for name in dataset.class_names}
        or None,
        step=scored.predictor.step,
        version=jaxcovid.__version__,
        config=run.config,
        commands=[
            *map(prepare_command, dict.fromkeys(m for name in names for m in member_names(name))),
            *(f"python -m jaxcovid.audit {name}" for name in names),
            *map(_training_command, predictors),
            command,
        ],
    )


def _training_command(predictor: Predictor) -> str:
    """The command of a training as it was typed, unless Python or an older version started it."""
    unknown = f"python -m jaxcovid.train --config=FILE --workdir={predictor.workdir}"
    return predictor.run.command or f"{unknown}  # with the options below"


def read_audit(dataset: Dataset) -> AuditSummary | None:
    """The verdicts of an audit of the data as they are; None if there was none."""
    path = dataset.directory / AUDIT_FILE
    audit = read_json(path) if path.exists() else {}
    if audit.get("digest") != dataset.digest:
        return None
    checks = [AuditedCheck(c["name"], c["verdict"], c["summary"]) for c in audit["checks"]]
    return AuditSummary(audit["verdict"], checks)

"""What a workdir says about itself: `run.json`, written before the first step and read once.

With it, evaluation and prediction need nothing but `--workdir`. What older versions wrote is
translated while it is read, see `run_migration`.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from absl import logging

from jaxcovid.data.ablations import trained_ablation
from jaxcovid.data.augmentation import Augmentation
from jaxcovid.data.labels import KINDS, Task
from jaxcovid.data.preprocessing import Preprocessing
from jaxcovid.runtime.files import read_json, write_atomically
from jaxcovid.workdir.run_migration import migrated
from jaxcovid.workdir.summaries import InitSummary, PartSummary, TeacherSummary

FILE = "run.json"
FORMAT_VERSION = 3
# Options that change how a run is carried out, not what it computes: a resumed run may differ.
FREE_OPTIONS = (
    "workers",
    "log_every_steps",
    "save_every_steps",
    "fsdp",
    "slices",
    "profile",
    "bad_records",
    "cache",
    "model.form",
)
_TYPES = {  # of what is read from run.json
    "config": {
        "network": str,
        "task": str,
        "ablation": str,
        "uncertain": dict,
        "model": dict,
        "fusion": dict,
        "parts": dict,
        "preprocessing": dict,
    },
    "dataset": {"name": str, "modality": str, "window": list, "class_names": list},
    "outputs": list,
}
_CHANGED_DATA = (
    " The data set of this name holds other images, masks, labels, patients or splits than it did, "
    "or was prepared by a version whose digests do not cover masks: what was trained on may now be "
    "in its validation or test split."
)


class WorkdirError(ValueError):
    """A folder that is not a workdir, or one that belongs to another run."""


@dataclass(frozen=True)
class RunDataset:
    """The data set that a run is trained on; see `datasets.Dataset` and `joined.JoinedDataset`.

    `left_out` has the ids of the training images that are not used.
    """

    name: str
    digest: str
    modality: str
    window: tuple[float, float]
    hu_offset: float | None
    class_names: tuple[str, ...]
    citation: str
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Run:
    """A training run.

    Attributes:
      config: the resolved configuration, JSON values; see `configs/default.py`.
      dataset: what it is trained on.
      task: what the network is asked.
      parts: its frozen parts by name.
      versions: of the packages that started it, by name.
      command: the command line of its start; None if Python or an older version started it.
      init: the weights that it began with; None of random ones.
      teachers: of a distillation, by name.
    """

    config: Mapping[str, Any]
    dataset: RunDataset
    task: Task
    parts: Mapping[str, PartSummary]
    versions: Mapping[str, str]
    command: str | None = None
    init: InitSummary | None = None
    teachers: Mapping[str, TeacherSummary] = dataclasses.field(default_factory=dict)

    @property
    def preprocessing(self) -> Preprocessing:
        """The five steps from a gray image to the network's input."""
        return Preprocessing(**self.config["preprocessing"])

    @property
    def augmented_preprocessing(self) -> Preprocessing:
        """`preprocessing`, with what else is random in training."""
        options = self.config["augmentation"]
        augmentation = Augmentation(**{**options, "scale": tuple(options["scale"])})
        return dataclasses.replace(self.preprocessing, augmentation=augmentation)

    @property
    def ablation(self) -> str:
        """What altered its images or labels; see `ablations.TRAINED`."""
        return self.config["ablation"]

    @property
    def seed(self) -> int:
        """Of initialisation, shuffling and augmentation."""
        return self.config["seed"]

    @property
    def volume_slices(self) -> int:
        """Slices of each volume that are classified together; 0 of a network for single images."""
        return self.config["volume"]["slices"]

    @classmethod
    def load(cls, workdir: Path) -> "Run":
        """The run of a workdir.

        Raises:
          WorkdirError: the folder is missing, is not a workdir, is damaged, or has the format of
            another version.
        """
        path = workdir / FILE
        if not path.is_file():
            what = "holds no run.json" if workdir.is_dir() else "does not exist"
            raise WorkdirError(
                f"{workdir} is not a workdir: it {what}; give the --workdir of a training run"
            )
        try:
            facts = read_json(path)
            version = facts.get("format_version")
            if version in (2, FORMAT_VERSION):
                return _parse(migrated(facts, version))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise WorkdirError(f"{path} is damaged, or of another version: {error}") from error
        raise WorkdirError(
            f"{path} has format {version}, this version of jaxcovid reads 2 and {FORMAT_VERSION}; "
            "use the one that wrote it"
        )

    def to_json(self) -> dict[str, Any]:
        """The content of `run.json`."""
        facts = {
            "format_version": FORMAT_VERSION,
            "config": self.config,
            "dataset": dataclasses.asdict(self.dataset),
            "outputs": self.task.outputs,
            "parts": {name: dataclasses.asdict(part) for name, part in self.parts.items()},
            "versions": self.versions,
            **({"command": self.command} if self.command else {}),
            **({"init": dataclasses.asdict(self.init)} if self.init else {}),
        }
        if self.teachers:
            facts["teachers"] = {
                name: dataclasses.asdict(teacher) for name, teacher in self.teachers.items()
            }
        return json.loads(json.dumps(facts))

    def claim(self, workdir: Path) -> None:
        """Writes the run into a new workdir, or checks that a used one holds the same run.

        Args:
          workdir: created if missing. A used one keeps the command of its first start.

        Raises:
          WorkdirError: the workdir belongs to another run; all differences are named.
          OSError: it cannot be written.
        """
        path = workdir / FILE
        if not path.exists():
            workdir.mkdir(parents=True, exist_ok=True)
            write_atomically(path, (json.dumps(self.to_json(), indent=1) + "\n").encode())
            return
        stored = Run.load(workdir)
        if differences := _differences(stored, self):
            changed = stored.dataset.digest != self.dataset.digest
            same_name = stored.dataset.name == self.dataset.name
            raise WorkdirError(
                f"{workdir} belongs to another run:\n"
                + "\n".join(differences)
                + "\nResume with the same settings, or give a new --workdir."
                + (_CHANGED_DATA if changed and same_name else "")
            )
        if stored.command and stored.command != self.command:
            logging.info(
                "%s was started by another command, which it keeps:\n  %s", workdir, stored.command
            )


def _differences(stored: Run, wanted: Run) -> list[str]:
    """What two runs do not share, a line for each value."""
    from flax import traverse_util  # it imports JAX, which an exported network does without

    flat_stored, flat_wanted = (
        traverse_util.flatten_dict(run.to_json(), sep=".") for run in (stored, wanted)
    )
    free = {f"config.{name}" for name in FREE_OPTIONS}
    free |= {"versions.jaxcovid", "versions.jax", "command"}
    return [
        f"  {key}: {flat_stored.get(key)!r} in the workdir, {flat_wanted.get(key)!r} now"
        for key in sorted(flat_stored.keys() | flat_wanted.keys())
        if key not in free and flat_stored.get(key) != flat_wanted.get(key)
    ]


def _parse(facts: Mapping[str, Any]) -> Run:
    """The run of the content of `run.json`.

    Raises:
      ValueError, TypeError, KeyError, AttributeError: it is damaged.
    """
    _check_types(facts, _TYPES, "")
    outputs, config, dataset = facts["outputs"], facts["config"], facts["dataset"]
    if not outputs or not all(isinstance(name, str) for name in outputs):
        raise ValueError("outputs are no names")
    if config["task"] not in KINDS:
        raise ValueError(f"config.task is {config['task']}, none of {', '.join(KINDS)}")
    low, high = dataset["window"]
    uncertain, command = config["uncertain"], facts.get("command")
    run = Run(
        config=config,
        dataset=RunDataset(
            name=dataset["name"],
            digest=dataset.get("digest", ""),
            modality=dataset["modality"],
            window=(low, high),
            hu_offset=dataset.get("hu_offset"),  # the first release had none
            class_names=tuple(dataset["class_names"]),
            citation=dataset.get("citation", ""),
            left_out=tuple(dataset.get("left_out", ())),
        ),
        task=Task(
            config["task"], tuple(outputs), tuple(uncertain["ones"]), tuple(uncertain["ignore"])
        ),
        parts={
            name: PartSummary(**{**part, "outputs": tuple(part["outputs"])})
            for name, part in facts.get("parts", {}).items()
        },
        versions=facts.get("versions", {}),
        command=command if isinstance(command, str) else None,
        init=InitSummary(**facts["init"]) if "init" in facts else None,
        teachers={
            name: TeacherSummary(**{**teacher, "depths": tuple(teacher["depths"])})
            for name, teacher in facts.get("teachers", {}).items()
        },
    )
    _ = run.preprocessing, trained_ablation(run.ablation)  # refuse what they do not know
    return run


def _check_types(facts: Mapping[str, Any], types: Mapping[str, Any], prefix: str) -> None:
    for key, wanted in types.items():
        kind = dict if isinstance(wanted, dict) else wanted
        if not isinstance(value := facts.get(key), kind):
            raise ValueError(f"{prefix}{key} is {str(value)[:50]}, no {kind.__name__}")
        if isinstance(wanted, dict):
            _check_types(value, wanted, f"{prefix}{key}.")

"""The lines of the paper's tables, and the trainings that each of them needs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

TABLES = ("III", "IV", "V", "VI", "ablation")
DATA = "data"  # in ROOT: the prepared data sets
OTHER_COUNTRY = ("ct_cov19", "sars_cov_2_ct")  # Table IV: the first of them that is there


@dataclass(frozen=True)
class Training:
    """A training, the same for each seed.

    Attributes:
      name: of its folder in ROOT.
      config: of jaxcovid.train.
      dataset: that it is trained on.
      options: further ones; "{ROOT}" and "{SEED}" are filled in.
      after: trainings whose workdirs the options name.
    """

    name: str
    config: str
    dataset: str
    options: tuple[str, ...] = ()
    after: tuple["Training", ...] = ()

    @property
    def level(self) -> int:
        """How many trainings come before it, one after the other."""
        return 1 + max(each.level for each in self.after) if self.after else 0

    def with_earlier(self) -> Iterator["Training"]:
        """All trainings that come before it, then itself."""
        for each in self.after:
            yield from each.with_earlier()
        yield self

    def workdir(self, root: Path, seed: int) -> Path:
        """Where it is trained."""
        return root / self.name / str(seed)


@dataclass(frozen=True)
class Method:
    """A line of a table.

    Attributes:
      table: of the paper, "III" to "VI", or "ablation".
      name: as published, see `evaluation.published`, or of ours.
      trainings: whose mean probability it is; none if it cannot be had.
      tested_on: the data set, if it is not that of the trainings.
      classifier: in place of the network's own, see jaxcovid.evaluate.
      missing: why there is none.
    """

    table: str
    name: str
    trainings: tuple[Training, ...] = ()
    tested_on: str = ""
    classifier: str = ""
    missing: str = ""

    def workdirs(self, root: Path, seed: int) -> list[Path]:
        """Of its trainings; the first one has the result."""
        return [each.workdir(root, seed) for each in self.trainings]

    def result(self, root: Path, seed: int) -> Path | None:
        """The folder of its result; None as long as there is none."""
        if not self.trainings:
            return None
        variety = self.classifier or ("ensemble" if len(self.trainings) > 1 else "")
        split = f"test-{variety}" if variety else "test"
        where = self.workdirs(root, seed)[0] / "evaluation"
        external = f"{self.tested_on}/**/" if self.tested_on else ""
        found = sorted(where.glob(f"{external}{split}/metrics.json"))
        return found[0].parent if found else None


def methods(root: Path, tables: Sequence[str] = TABLES) -> Iterator[Method]:
    """The lines of tables, for the data sets that are prepared in ROOT."""
    for lines in (_on_one_source, _on_another_source, _of_xrays, _ablation):
        yield from (method for method in lines(root) if method.table in tables)


def _on_one_source(root: Path) -> Iterator[Method]:
    absent = "" if _is_there(root, "ct_cov19") else "CT-COV19 is not in the folder of data"
    trained = Training("iii/deep_ct_net", "configs/ct_cov19.py:scratch", "ct_cov19")
    yield Method("III", "Deep-CT-Net", (trained,), missing=absent)
    own = ("--config.preprocess_on=host", "--config.cache=none", "--config.batch_size=4")
    volumes = Training("iii/covnet", "configs/rivals.py:covnet", "ct_cov19", own)
    yield Method("III", "COVNET", (volumes,), missing=absent)
    for rival in ("DL-system", "Hybrid-3D", "Unet++"):
        yield Method("III", rival, missing="needs volumes or outlines of CT-COV19, not public")
    networks = {
        "Deep-CT-Net": "configs/covid_ct.py:scratch",
        "Baseline of COVID-CT": "configs/rivals.py:densenet169",
        "Ref. 29": "configs/rivals.py:light_cnn",
        "EfficientNet-Lite0": "configs/rivals.py:lite0",
    }
    for name, config in networks.items():
        trained = Training(f"v/{_folder(name)}", config, "covid_ct")
        yield Method("V", name, (trained,), missing=_unless(root, "covid_ct"))
    # The backbone stays as ImageNet left it: prototypes need features, not a training.
    frozen = Training(
        "v/frozen",
        "configs/covid_ct.py:imagenet,lite0",
        "covid_ct",
        ("--config.epochs=1", "--config.init.freeze_epochs=1"),
    )
    reason = _unless(root, "covid_ct")
    if not Path("weights/efficientnet_lite0").is_dir():
        reason = reason or "needs weights/efficientnet_lite0, see docs/weights.md"
    yield Method("V", "xDNN", (frozen,), classifier="prototypes", missing=reason)


def _on_another_source(root: Path) -> Iterator[Method]:
    source = next((name for name in OTHER_COUNTRY if _is_there(root, name)), OTHER_COUNTRY[-1])
    networks = {
        "Deep-CT-Net": "configs/covid_ct.py:scratch",
        "DenseNet-169": "configs/rivals.py:densenet169",
        "ResNet-50": "configs/rivals.py:resnet50",
    }
    for name, config in networks.items():
        trained = Training(f"iv/{source}/{_folder(name)}", config, source)
        reason = _unless(root, source, "covid_ct")
        yield Method("IV", name, (trained,), tested_on="covid_ct", missing=reason)


def _of_xrays(root: Path) -> Iterator[Method]:
    films, reason = "covid_chestxray", _unless(root, "covid_chestxray")
    stages: list[Training] = []
    for size in (128, 224, 229):
        options = [f"--config.preprocessing.size={size}"]
        if stages:
            before = f"{{ROOT}}/{stages[-1].name}/{{SEED}}"
            options += [f"--config.init.weights={before}", "--config.init.what=everything"]
        config = "configs/rivals.py:covid_resnet"
        name = f"vi/covid_resnet{size}"
        stages.append(Training(name, config, films, tuple(options), tuple(stages[-1:])))
    yield Method("VI", "COVID-ResNet", (stages[-1],), missing=reason)
    pair = [Training(f"vi/{x}", f"configs/rivals.py:{x}", films) for x in ("resnet50", "vgg16")]
    yield Method("VI", "Ref. 12", tuple(pair), missing=reason)
    caad = Training("vi/caad", "configs/rivals.py:caad", films)
    yield Method("VI", "CAAD", (caad,), missing=reason)
    parts = (
        Training("vi/part1", "configs/cxr_part1.py:chestxray14,scratch", "chestxray14"),
        Training("vi/part2", "configs/cxr_part2.py:scratch", "chest_xray_pneumonia"),
    )
    options = tuple(f"--config.parts.part{i}.workdir={{ROOT}}/vi/part{i}/{{SEED}}" for i in (1, 2))
    fused = Training("vi/deep_cxr_net", "configs/deep_cxr_net.py:scratch", films, options, parts)
    needed = _unless(root, films, *(part.dataset for part in parts))
    yield Method("VI", "Deep-CXR-Net", (fused,), missing=needed)


def _ablation(root: Path) -> Iterator[Method]:
    """What each piece of Deep-CT-Net is worth: all as in Table V, but one."""
    changes = {
        "as it is": (),
        "no attention": ("model.attention=none",),
        "wide attention": ("model.attention=wide",),
        "global average": ("model.head=gap",),
        "without equalisation": ("preprocessing.equalize=False",),
        "without blur": ("preprocessing.blur=False",),
        "without rotation": ("preprocessing.rotation_deg=0.0",),
        "without translation": ("preprocessing.translation_fraction=0.0",),
        "constant mean and deviation": ("preprocessing.mean=127.0", "preprocessing.std=128.0"),
    }
    if Path("weights/densenet121").is_dir():
        changes["features of ImageNet"] = ("init.weights=weights/densenet121",)
    for name, overrides in changes.items():
        folder = f"ablation/{_folder(name)}" if overrides else "v/deep_ct_net"
        options = tuple(f"--config.{override}" for override in overrides)
        trained = Training(folder, "configs/covid_ct.py:scratch", "covid_ct", options)
        yield Method("ablation", name, (trained,), missing=_unless(root, "covid_ct"))


def _is_there(root: Path, dataset: str) -> bool:
    return (root / DATA / dataset).is_dir()


def _unless(root: Path, *datasets: str) -> str:
    """Empty if data sets are prepared, else which are not."""
    absent = [name for name in datasets if not _is_there(root, name)]
    return f"{' and '.join(absent)} not prepared" if absent else ""


def _folder(name: str) -> str:
    return name.lower().replace(" ", "_").replace("-", "_").replace(".", "")

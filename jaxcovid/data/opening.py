"""Opens prepared data sets by name: one, or several as one."""

import json
import os

from etils import epath

from jaxcovid.data.datasets import (
    DIGEST_FILE,
    OLD_NAMES,
    SEPARATOR,
    Dataset,
    default_data_dir,
    find_version,
    prepare_command,
)
from jaxcovid.data.joined import join
from jaxcovid.data.structures import FEATURES, STRUCTURES
from jaxcovid.runtime.files import expand_home

_STORED = (
    "digest",
    "modality",
    "window",
    "hu_offset",
    "prepared_from",
    "published_images",
    "class_counts",
    "finding_counts",
    "patient_counts",
    "crossing_patients",
)


def open_dataset(name: str, data_dir: epath.PathLike | None = None) -> Dataset:
    """Opens a prepared data set, the highest version that is there, or several as one.

    Args:
        name: "covid_ct/gray320"; without a config ("covid_ct") its default one is meant. Several
            are joined by "+", see `joined.join`.
        data_dir: Where data sets are kept; `default_data_dir()` if None.

    Raises:
        FileNotFoundError: If it was not prepared (to its end); says the command that does it.
        ValueError: If it was prepared by an older version, or if those of several do not fit
            together.
    """
    data_dir = epath.Path(expand_home(os.fspath(data_dir or default_data_dir())))
    members = [_open_one(member, data_dir) for member in name.split(SEPARATOR)]
    if len(members) == 1:
        return members[0]
    return join(members, data_dir)


def _open_one(name: str, data_dir: epath.Path) -> Dataset:
    """Opens one prepared data set, see `open_dataset`."""
    import tensorflow_datasets as tfds

    directory = find_version(name, data_dir)
    if directory is None:
        raise FileNotFoundError(
            f"data set {name!r} is not prepared in {data_dir}; run\n"
            f"  {prepare_command(name, data_dir)}"
        )
    info = tfds.builder_from_directory(directory).info
    try:
        stored = json.loads((directory / DIGEST_FILE).read_text())
    except ValueError as error:
        raise ValueError(
            f"{directory / DIGEST_FILE} is damaged ({error}); prepare the data set anew:\n"
            f"  {prepare_command(name, data_dir)} --overwrite"
        ) from error
    if absent := [key for key in _STORED if key not in stored]:
        raise ValueError(
            f"{directory} was prepared by an older version (no {', '.join(absent)}); prepare it "
            f"anew:\n  {prepare_command(name, data_dir)} --overwrite"
        )
    several = "findings" in info.features
    features = {OLD_NAMES.get(name, name) for name in info.features}
    return Dataset(
        name=info.full_name.removesuffix(f"/{info.version}"),
        directory=directory,
        class_names=() if several else tuple(info.features["label"].names),
        finding_names=tuple(sorted(info.features["findings"])) if several else (),
        masks=tuple(name for name in STRUCTURES if FEATURES[name] in features),
        digest=stored["digest"],
        citation=info.citation,
        description=info.description,
        split_sizes={split: info.splits[split].num_examples for split in info.splits},
        modality=stored["modality"],
        window=tuple(stored["window"]),
        hu_offset=stored["hu_offset"],
        prepared_from=stored["prepared_from"],
        class_counts=stored["class_counts"],
        finding_counts=stored["finding_counts"],
        published_images=stored["published_images"],
        patient_counts=stored["patient_counts"],
        crossing_patients=stored["crossing_patients"],
    )

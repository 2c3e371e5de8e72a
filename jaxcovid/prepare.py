r"""Prepares a data set: reads its images once, checks them and writes array records.

python -m jaxcovid.prepare covid_ct --source=COVID-CT
python -m jaxcovid.prepare covid_ct/gray320 --source=COVID-CT --data_dir=DIR
python -m jaxcovid.prepare ct_cov19 --source=CT-COV19
python -m jaxcovid.prepare covid_chestxray --source=covid-chestxray-dataset --allow_missing
python -m jaxcovid.prepare chest_xray_pneumonia --source=chest_xray
python -m jaxcovid.prepare covid_chestxray/paper --source=covid-chestxray-dataset \
    --other_pneumonia=chest_xray_pneumonia,chestxray14
python -m jaxcovid.prepare chestxray14 --source=ChestX-ray14
python -m jaxcovid.prepare chexpert --source=CheXpert-v1.0-small
python -m jaxcovid.prepare folder --name=my_ct --source=DIR
python -m jaxcovid.prepare folder --name=my_ct --csv=FILE
python -m jaxcovid.prepare phantom
"""

import argparse
import importlib
import os
import re
import sys
from collections.abc import Sequence
from typing import Any

from absl import app, logging
from etils import epath

from jaxcovid import command
from jaxcovid.data import datasets

# The module of each data set in jaxcovid.data.builders, its class and the options it takes.
_BUILDERS = {
    "covid_ct": ("CovidCt", ("source",)),
    "ct_cov19": ("CtCov19", ("source",)),
    "covid_chestxray": ("CovidChestxray", ("source", "allow_missing", "other_pneumonia")),
    "chest_xray_pneumonia": ("ChestXrayPneumonia", ("source",)),
    "chestxray14": ("Chestxray14", ("source", "allow_missing")),
    "chexpert": ("Chexpert", ("source", "allow_missing")),
    "folder": ("Folder", ("source", "csv", "window")),
    "phantom": ("Phantom", ()),
}


def build(
    name: str,
    data_dir: epath.PathLike | None = None,
    *,
    source: str | None = None,
    csv: str | None = None,
    window: tuple[float, float] | None = None,
    allow_missing: bool = False,
    other_pneumonia: Sequence[str] = (),
) -> datasets.Dataset:
    """Prepares a data set, unless that is done already.

    Args:
        name: "covid_ct", "covid_ct/gray320", "phantom", or "folder/NAME" with a name of your own.
        data_dir: Where data sets are kept; `datasets.default_data_dir()` if None.
        source: Folder of the images, as published.
        csv: Table of the images (folder).
        window: Centre and width in Hounsfield units for DICOM files of CT (folder).
        allow_missing: Leave out films that are named and absent or unusable (X-ray data sets).
        other_pneumonia: Prepared data sets whose test splits give covid_chestxray/paper its further
            films.

    Returns:
        The data set, opened.

    Raises:
        ValueError: If the name, an option or the images are not usable; says which.
        OSError: If files are missing or the data set cannot be written.
    """
    base, _, config = name.partition("/")
    if base not in _BUILDERS:
        raise ValueError(f"no data set {base!r}; there are {', '.join(_BUILDERS)}")
    class_name, accepted = _BUILDERS[base]
    options = {
        "source": source,
        "csv": csv,
        "window": window,
        "allow_missing": allow_missing,
        "other_pneumonia": other_pneumonia,
    }
    given = {key: value for key, value in options.items() if value}
    for option in given:
        if option not in accepted:
            raise ValueError(f"{base} takes no --{option}")
    if base == "folder" and not re.fullmatch(r"\w[\w.-]*", config):
        raise ValueError(
            f"folder needs --name=NAME, a name of letters, digits, '_', '-', '.'; got {config!r}"
        )
    data_dir = epath.Path(data_dir or datasets.default_data_dir()).expanduser()
    if datasets.find_version(name, data_dir) is None:
        if other_pneumonia:
            given["other_pneumonia"] = [
                datasets.open_dataset(other, data_dir) for other in other_pneumonia
            ]
        module = importlib.import_module(f"jaxcovid.data.builders.{base}")
        builder_class = getattr(module, class_name)
        configs = builder_class.builder_configs
        if config and configs and config not in configs:
            raise ValueError(f"{base} has no config {config!r}; it has {', '.join(configs)}")
        _write(builder_class, config=config or None, data_dir=data_dir, **given)
    dataset = datasets.open_dataset(name, data_dir)
    if not (dataset.directory / datasets.CARD_FILE).exists():
        from jaxcovid.data import card

        card.write_card(dataset)
    return dataset


def _write(builder_class: type, **kwargs: Any) -> None:
    import tensorflow_datasets as tfds

    builder = builder_class(**kwargs)
    directory = epath.Path(builder.data_dir)
    # Only a digest makes it a whole data set; without one, a run was ended half way. TFDS would
    # take the directory as it is.
    if directory.exists() and not (directory / datasets.DIGEST_FILE).exists():
        logging.warning("%s was not prepared to its end and is written anew", directory)
        directory.rmtree()
        builder = builder_class(**kwargs)
    try:
        builder.download_and_prepare(
            file_format="array_record",
            download_config=tfds.download.DownloadConfig(try_download_gcs=False),
        )
    except RuntimeError as error:  # The record writer's word for a full disk.
        if "No space left" not in str(error):
            raise
        raise OSError(f"the disk of {directory} is full; free space or take --data_dir") from error
    datasets.write_digest(
        directory,
        modality=builder.modality,
        window=builder.window,
        published=builder.published,
        grouped=builder.grouped,
    )


def _report(dataset: datasets.Dataset) -> str:
    lines = [f"{dataset.name}: {dataset.directory}"]
    for split, size in dataset.split_sizes.items():
        counts = dataset.class_counts[split]
        classes = ", ".join(f"{count} {class_name}" for class_name, count in counts.items())
        patients = dataset.patient_counts[split]
        lines.append(f"  {split}: {size} images ({classes}) of {patients} patients")
    lines.append(f"  digest: sha256 {dataset.digest}")
    return "\n".join([*lines, f"  card: {dataset.directory / datasets.CARD_FILE}"])


def _centre_and_width(text: str) -> tuple[float, float]:
    centre, width = map(float, text.split(","))
    if not width > 0:
        raise ValueError(f"the width of a window is above 0, not {width}")
    return centre, width


def _parse_flags(argv: Sequence[str]) -> argparse.Namespace:
    parser = command.make_parser("prepare", __doc__)
    parser.add_argument("dataset", metavar="NAME[/CONFIG]", help=f"one of {', '.join(_BUILDERS)}")
    parser.add_argument("--source", metavar="DIR", help="folder of the images, as published")
    parser.add_argument("--csv", metavar="FILE", help="folder: table of path, label, ...")
    parser.add_argument(
        "--allow_missing",
        action="store_true",
        help="X-rays: go without films that are absent or unusable",
    )
    parser.add_argument(
        "--other_pneumonia",
        metavar="NAMES",
        type=lambda names: names.split(","),
        default=(),
        help="covid_chestxray/paper: prepared data sets to take more test films from, with commas",
    )
    parser.add_argument(
        "--window",
        metavar="HU",
        type=_centre_and_width,
        help="folder: CENTRE,WIDTH for DICOM files of CT (default: -600,1500, the lung window)",
    )
    parser.add_argument("--name", metavar="NAME", help="folder: name to give the data set")
    parser.add_argument("--data_dir", metavar="DIR", help=command.DATA_DIR_HELP)
    logging.set_verbosity(logging.WARNING)  # TFDS logs every file it reads; --verbosity shows it.
    return parser.parse_args(argv[1:])


def main(args: argparse.Namespace) -> None:
    """Prepares the data set and prints where it lies, its counts and its digest."""
    name = f"{args.dataset}/{args.name}" if args.name else args.dataset
    data_dir = epath.Path(args.data_dir or datasets.default_data_dir()).expanduser()
    try:
        if datasets.find_version(name, data_dir):
            print(f"{name} is already prepared; delete its directory to prepare it anew.")
        else:
            print(f"Preparing {name} on this host's {os.cpu_count()} CPU cores.", flush=True)
        dataset = build(
            name,
            data_dir,
            source=args.source,
            csv=args.csv,
            window=args.window,
            allow_missing=args.allow_missing,
            other_pneumonia=args.other_pneumonia,
        )
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(_report(dataset))


if __name__ == "__main__":
    app.run(main, flags_parser=_parse_flags)

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
import contextlib
import importlib
import io
import json
import os
import pathlib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from absl import app, logging
from etils import epath

from jaxcovid.data import datasets
from jaxcovid.data.dicom import counted_warnings
from jaxcovid.data.pseudonyms import Pseudonyms, read_key
from jaxcovid.runtime import cli, files

# The module of each data set in jaxcovid.data.builders, its class and the options it takes.
_BUILDERS = {
    "covid_ct": ("CovidCt", ("source",)),
    "ct_cov19": ("CtCov19", ("source",)),
    "covid_chestxray": ("CovidChestxray", ("source", "allow_missing", "other_pneumonia")),
    "chest_xray_pneumonia": ("ChestXrayPneumonia", ("source",)),
    "chestxray14": ("Chestxray14", ("source", "allow_missing")),
    "chexpert": ("Chexpert", ("source", "allow_missing")),
    "folder": (
        "Folder",
        ("source", "csv", "window", "hu_offset", "every", "pseudonyms", "allow_missing"),
    ),
    "phantom": ("Phantom", ()),
}


def build(
    name: str,
    data_dir: epath.PathLike | None = None,
    *,
    source: str | None = None,
    csv: str | None = None,
    window: tuple[float, float] | None = None,
    hu_offset: float | None = None,
    every: int | None = None,
    pseudonyms: Pseudonyms | None = None,
    allow_missing: bool = False,
    other_pneumonia: Sequence[str] = (),
    overwrite: bool = False,
) -> datasets.Dataset:
    """Prepares a data set, unless that is done already with these options.

    Args:
        name: "covid_ct", "covid_ct/gray320", "phantom", or "folder/NAME" with a name of your own.
        data_dir: Where data sets are kept; `datasets.default_data_dir()` if None.
        source: Folder of the images, as published.
        csv: Table of the images (folder).
        window: Centre and width in Hounsfield units for CT (folder).
        hu_offset: What makes Hounsfield units of the values of 16-bit PNG and TIFF of CT (folder).
        every: Of volumes every how many slices are taken (folder).
        pseudonyms: For the ids of patients and series (folder).
        allow_missing: Leave out images that are absent or unusable (X-ray data sets, folder).
        other_pneumonia: Prepared data sets whose test splits give covid_chestxray/paper its further
            films.
        overwrite: Prepare it anew; what was there stays until the new one is whole.

    Returns:
        The data set, opened.

    Raises:
        ValueError: If the name, an option or the images are not usable, or the data set was
            prepared with another option; says which.
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
        "hu_offset": hu_offset,
        "every": every,
        "pseudonyms": pseudonyms,
        "allow_missing": allow_missing,
        "other_pneumonia": other_pneumonia,
    }
    given = {key: value for key, value in options.items() if value or isinstance(value, float)}
    for option in given:
        if option not in accepted:
            raise ValueError(f"{base} takes no --{option}")
    if base == "folder" and not re.fullmatch(r"\w[\w.-]*", config):
        raise ValueError(
            f"folder needs --name=NAME, a name of letters, digits, '_', '-', '.'; got {config!r}"
        )
    data_dir = epath.Path(files.expand_home(os.fspath(data_dir or datasets.default_data_dir())))
    prepared_from = _noted(given)
    finished = datasets.find_version(name, data_dir)
    if finished is not None and not overwrite:
        _check_options(datasets.open_dataset(name, data_dir), prepared_from)
    else:
        _check_writable(data_dir)
        if other_pneumonia:
            given["other_pneumonia"] = [
                datasets.open_dataset(other, data_dir) for other in other_pneumonia
            ]
        module = importlib.import_module(f"jaxcovid.data.builders.{base}")
        builder_class = getattr(module, class_name)
        configs = builder_class.builder_configs
        if config and configs and config not in configs:
            raise ValueError(f"{base} has no config {config!r}; it has {', '.join(configs)}")
        with counted_warnings(), _kept_until_replaced(finished):
            _write(builder_class, prepared_from, config=config or None, data_dir=data_dir, **given)
    dataset = datasets.open_dataset(name, data_dir)
    if not (dataset.directory / datasets.CARD_FILE).exists():
        from jaxcovid.report import data_card

        data_card.write_card(dataset)
    return dataset


def _noted(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as they are kept beside the data: places as absolute paths, no key."""
    noted = dict(options)
    for name in {"source", "csv"} & noted.keys():
        noted[name] = str(pathlib.Path(noted[name]).expanduser().absolute())
    if "pseudonyms" in noted:
        noted["pseudonyms"] = noted["pseudonyms"].fingerprint
    return json.loads(json.dumps(noted))


def _check_options(dataset: datasets.Dataset, wanted: Mapping[str, Any]) -> None:
    """Refuses options other than those that a data set was prepared with.

    Raises:
        ValueError: Naming them.
    """
    different = [
        f"--{name}={value} (prepared with {dataset.prepared_from.get(name, 'none')})"
        for name, value in wanted.items()
        if dataset.prepared_from.get(name) != value
    ]
    if different:
        raise ValueError(
            f"{dataset.name} is already prepared, with other options: {', '.join(different)}. "
            "Give it another --name, or prepare it anew with --overwrite"
        )


@contextlib.contextmanager
def _kept_until_replaced(directory: epath.Path | None) -> Iterator[None]:
    """Moves a prepared data set aside, and back if what should replace it fails."""
    if directory is None:
        yield
        return
    aside = directory.parent / f"{directory.name}.replaced"
    if aside.exists():  # left by a run that was killed
        aside.rmtree()
    directory.rename(aside)
    try:
        yield
    except BaseException:
        if directory.exists():
            directory.rmtree()
        aside.rename(directory)
        raise
    aside.rmtree()


def _check_writable(data_dir: epath.Path) -> None:
    if files.is_remote(data_dir):
        return
    there = next(path for path in (data_dir, *data_dir.parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise OSError(
            f"cannot keep data sets in {data_dir}: {there} is not a folder that can be "
            "written; give another one with --data_dir=DIR"
        )


def _write(builder_class: type, prepared_from: Mapping[str, Any], **kwargs: Any) -> None:
    import tensorflow_datasets as tfds

    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    builder = builder_class(**kwargs)
    directory = epath.Path(builder.data_dir)
    # Only a digest makes it a whole data set; without one, a run was ended half way. TFDS would
    # take the directory as it is.
    if directory.exists() and not (directory / datasets.DIGEST_FILE).exists():
        logging.warning("%s was not prepared to its end and is written anew", directory)
        directory.rmtree()
        builder = builder_class(**kwargs)
    try:
        # TFDS prints that it downloads something, which it does not.
        with contextlib.redirect_stdout(io.StringIO()):
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
        hu_offset=getattr(builder, "hu_offset", None),
        prepared_from=prepared_from,
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


def _parse_flags(argv: Sequence[str]) -> argparse.Namespace:
    parser = cli.make_parser("prepare", __doc__)
    parser.add_argument("dataset", metavar="NAME[/CONFIG]", help=f"one of {', '.join(_BUILDERS)}")
    parser.add_argument("--source", metavar="DIR", help="folder of the images, as published")
    parser.add_argument("--csv", metavar="FILE", help="folder: table of path, label, ...")
    parser.add_argument(
        "--allow_missing",
        action="store_true",
        help="X-rays, folder: go without images that are absent or unusable",
    )
    parser.add_argument(
        "--other_pneumonia",
        metavar="NAMES",
        type=lambda names: names.split(","),
        default=(),
        help="covid_chestxray/paper: prepared data sets to take more test films from, with commas",
    )
    cli.add_reading_options(parser, of="folder: ", window="-600,1500, the lung window")
    parser.add_argument(
        "--overwrite", action="store_true", help="prepare it anew if it is there already"
    )
    parser.add_argument("--name", metavar="NAME", help="folder: name to give the data set")
    parser.add_argument("--data_dir", metavar="DIR", help=cli.DATA_DIR_HELP)
    logging.set_verbosity(logging.WARNING)  # TFDS logs every file it reads; --verbosity shows it.
    return parser.parse_args(argv[1:])


def main(args: argparse.Namespace) -> None:
    """Prepares the data set and prints where it lies, its counts and its digest."""
    name = f"{args.dataset}/{args.name}" if args.name else args.dataset
    with cli.user_errors():
        data_dir = args.data_dir or datasets.default_data_dir()
        data_dir = epath.Path(files.expand_home(os.fspath(data_dir)))
        if datasets.find_version(name, data_dir) and not args.overwrite:
            print(f"{name} is already prepared; --overwrite prepares it anew.")
        else:
            print(f"Preparing {name} on this host's {os.cpu_count()} CPU cores.", flush=True)
        dataset = build(
            name,
            data_dir,
            source=args.source,
            csv=args.csv,
            window=args.window,
            hu_offset=args.hu_offset,
            every=args.every,
            pseudonyms=read_key(args.pseudonyms) if args.pseudonyms else None,
            allow_missing=args.allow_missing,
            other_pneumonia=args.other_pneumonia,
            overwrite=args.overwrite,
        )
    print(_report(dataset))


if __name__ == "__main__":
    app.run(main, flags_parser=_parse_flags)

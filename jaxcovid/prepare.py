r"""Prepares a data set: reads its images once, checks them and writes array records.

python -m jaxcovid.prepare covid_ct --source=COVID-CT
python -m jaxcovid.prepare covid_ct/gray320 --source=COVID-CT --data_dir=DIR
python -m jaxcovid.prepare ct_cov19 --source=CT-COV19
python -m jaxcovid.prepare sars_cov_2_ct --source=SARS-CoV-2-CT-scan
python -m jaxcovid.prepare covid19_ct_seg/fold0 --source=COVID-19-CT-Seg
python -m jaxcovid.prepare mosmed --source=COVID19_1110 --every=4
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
import os
from collections.abc import Sequence

from absl import app, logging
from etils import epath

from jaxcovid.data import datasets
from jaxcovid.data.preparation import Options, build
from jaxcovid.data.pseudonyms import read_key
from jaxcovid.report.data_card import ensure_card
from jaxcovid.runtime import cli, files
from jaxcovid.runtime.user_errors import user_errors


def _summary(dataset: datasets.Dataset, card: epath.Path) -> str:
    """Where a data set lies, its counts by split, its digest and its card."""
    lines = [f"{dataset.name}: {dataset.directory}"]
    for split, size in dataset.split_sizes.items():
        counts = dataset.class_counts[split]
        classes = ", ".join(f"{count} {class_name}" for class_name, count in counts.items())
        patients = dataset.patient_counts[split]
        lines.append(f"  {split}: {size} images ({classes}) of {patients} patients")
    lines.append(f"  digest: sha256 {dataset.digest}")
    return "\n".join([*lines, f"  card: {card}"])


def _parse_flags(argv: Sequence[str]) -> argparse.Namespace:
    parser = cli.make_parser("prepare", __doc__)
    parser.add_argument("dataset", metavar="NAME[/CONFIG]", help="a data set named above")
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
    cli.add_reading_options(parser, prefix="folder: ", window="-600,1500, the lung window")
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
    with user_errors():
        data_dir = args.data_dir or datasets.default_data_dir()
        data_dir = epath.Path(files.expand_home(os.fspath(data_dir)))
        if datasets.find_version(name, data_dir) and not args.overwrite:
            print(f"{name} is already prepared; --overwrite prepares it anew.")
        else:
            print(f"Preparing {name} on this host's {os.cpu_count()} CPU cores.", flush=True)
        options = {key: getattr(args, key) for key in Options.__annotations__}
        if args.pseudonyms:
            options["pseudonyms"] = read_key(args.pseudonyms)
        dataset = build(name, data_dir, overwrite=args.overwrite, **options)
        card = ensure_card(dataset)
    print(_summary(dataset, card))


if __name__ == "__main__":
    app.run(main, flags_parser=_parse_flags)

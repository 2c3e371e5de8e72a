"""Prepares data sets: checks the options, runs a builder, writes records and their digest.

Builders import TensorFlow Datasets, which takes seconds, so they are imported where they are used.
"""

import contextlib
import io
import json
import os
import pathlib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypedDict, Unpack

from absl import logging
from etils import epath

from jaxcovid.data import datasets
from jaxcovid.data.dicom import counted_warnings
from jaxcovid.data.digest import write_digest
from jaxcovid.data.opening import open_dataset
from jaxcovid.data.pseudonyms import Pseudonyms
from jaxcovid.runtime import files


class Options(TypedDict, total=False):
    """How images are read; each builder takes some of these options, see `ImageBuilder.options`.

    Attributes:
        source: Folder of the images, as published.
        csv: Table of the images (folder).
        window: Centre and width in Hounsfield units for CT (folder).
        hu_offset: What makes Hounsfield units of the values of 16-bit PNG and TIFF of CT (folder).
        every: Of volumes every how many slices are taken (folder, data sets of volumes).
        pseudonyms: For the ids of patients and series (folder).
        allow_missing: Leave out images that are absent or unusable (X-ray data sets, folder).
        other_pneumonia: Prepared data sets whose test splits give covid_chestxray/paper its further
            films.
    """

    source: str | None
    csv: str | None
    window: tuple[float, float] | None
    hu_offset: float | None
    every: int | None
    pseudonyms: Pseudonyms | None
    allow_missing: bool
    other_pneumonia: Sequence[str]


def build(
    name: str,
    data_dir: epath.PathLike | None = None,
    *,
    overwrite: bool = False,
    **options: Unpack[Options],
) -> datasets.Dataset:
    """Prepares a data set, unless that is done already with these options.

    Args:
        name: "covid_ct", "covid_ct/gray320", "phantom", or "folder/NAME" with a name of your own.
        data_dir: Where data sets are kept; `datasets.default_data_dir()` if None.
        overwrite: Prepare it anew; what was there stays until the new one is whole.
        **options: See `Options`; None, False and empty ones count as not given.

    Returns:
        The data set, opened.

    Raises:
        ValueError: If the name, an option or the images are not usable, or the data set is there,
            prepared with another option; says which.
        OSError: If files are missing or the data set cannot be written.
    """
    from jaxcovid.data.builders.registry import BUILDERS

    base, _, config = name.partition("/")
    if base not in BUILDERS:
        raise ValueError(f"no data set {base!r}; there are {', '.join(BUILDERS)}")
    builder_class = BUILDERS[base]
    given = _given(options)
    if refused := [option for option in given if option not in builder_class.options]:
        raise ValueError(f"{base} takes no --{refused[0]}")
    if builder_class.named_by_user and not re.fullmatch(r"\w[\w.-]*", config):
        raise ValueError(
            f"{base} needs --name=NAME, a name of letters, digits, '_', '-', '.'; got {config!r}"
        )
    data_dir = epath.Path(files.expand_home(os.fspath(data_dir or datasets.default_data_dir())))
    prepared_from = _noted(given)
    finished = datasets.find_version(name, data_dir)
    if finished is not None and not overwrite:
        dataset = open_dataset(name, data_dir)
        _check_options(dataset, prepared_from)
        return dataset
    _check_writable(data_dir)
    if others := given.get("other_pneumonia"):
        given["other_pneumonia"] = [open_dataset(other, data_dir) for other in others]
    configs = builder_class.builder_configs
    if config and configs and config not in configs:
        raise ValueError(f"{base} has no config {config!r}; it has {', '.join(configs)}")
    with counted_warnings(), _kept_until_replaced(finished):
        _write(builder_class, prepared_from, config=config or None, data_dir=data_dir, **given)
    return open_dataset(name, data_dir)


def _given(options: Options) -> dict[str, Any]:
    """Returns the options that have a value, in the order of `Options`."""
    order = [*Options.__annotations__, *options]  # one that does not exist is refused later
    return {
        key: options[key]
        for key in dict.fromkeys(order)
        if options.get(key) or isinstance(options.get(key), float)
    }


def _noted(options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options as kept beside the data: absolute paths, the fingerprint of a key."""
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
    if aside.exists():  # left by a process that was killed
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
    """Refuses a folder that data sets cannot be written to, or created in.

    Raises:
        OSError: Naming the first folder above that is there and cannot be written.
    """
    if files.is_remote(data_dir):
        return
    there = next(path for path in (data_dir, *data_dir.parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise OSError(
            f"cannot keep data sets in {data_dir}: {there} is not a folder that can be "
            "written; give another one with --data_dir=DIR"
        )


def _write(builder_class: type, prepared_from: Mapping[str, Any], **kwargs: Any) -> None:
    """Runs a builder and writes the digest beside its records; `kwargs` are the builder's."""
    import tensorflow_datasets as tfds

    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    builder = builder_class(**kwargs)
    directory = epath.Path(builder.data_dir)
    # A data set without its digest was not written to its end; TFDS would take it as it is.
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
    write_digest(
        directory,
        modality=builder.modality,
        window=builder.window,
        hu_offset=getattr(builder, "hu_offset", None),
        prepared_from=prepared_from,
        published=builder.published,
        grouped=builder.grouped,
    )

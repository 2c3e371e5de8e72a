"""The images of a user's own folder or table, with their classes; see `folder.read_rows`."""

import collections
import pathlib
from collections.abc import Sequence

from jaxcovid.data import image_files
from jaxcovid.data.builders.tables import Row, check_columns, listed, present, read_table
from jaxcovid.data.image_files import text_of
from jaxcovid.data.structures import FEATURES

SPLITS = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}
_LOOSE = "loose files outside of the classes' folders"


def list_folders(root: pathlib.Path, left_out: collections.Counter[str]) -> list[Row]:
    """Lists every file under the sub-folders of a folder, each sub-folder a class.

    Args:
        root: The folder.
        left_out: Gets how many files and folders were left out, by reason.

    Returns:
        For each file `path`, `id` (its path in the folder) and `label`.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If it holds no images, or its sub-folders are splits.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root}")
    rows = []
    for entry in sorted(root.iterdir()):
        if entry.name.startswith("."):
            left_out[image_files.HIDDEN] += 1
        elif not entry.is_dir():
            left_out[_LOOSE] += 1
        else:
            for path in image_files.find_files(entry, left_out):
                name = text_of(path.relative_to(root).as_posix())
                rows.append({"path": path, "id": name, "label": text_of(entry.name)})
    if not rows:
        raise ValueError(
            f"no images in the sub-folders of {root}; give each class a sub-folder"
            + (f" (left out: {image_files.counts_text(left_out)})" if left_out else "")
        )
    labels = {row["label"] for row in rows}
    if labels <= SPLITS.keys():
        raise ValueError(
            f"the sub-folders {', '.join(sorted(labels))} of {root} are splits, not classes; "
            "give a CSV with columns path, label and split"
        )
    return rows


def list_table(table: pathlib.Path, source: str | None, *, allow_missing: bool) -> list[Row]:
    """Lists the images that a table names.

    Args:
        table: CSV file with columns `path` and `label`, maybe `patient` and `split`, maybe
            `lung_mask` and `lesion_mask`, empty where a mask is not known.
        source: Folder that paths are relative to; None is that of the table.
        allow_missing: Leave out images that are not there.

    Returns:
        For each image `path`, `id` (its path as text), `label`, and what else the table has of
        these columns, masks as paths or None.

    Raises:
        FileNotFoundError: If the table, images or masks are not there.
        ValueError: If the table is damaged, a column is missing or has gaps, a path leads out, an
            image is listed twice or a split is unknown.
    """
    columns, entries = read_table(table)
    check_columns(table, columns, ("path", "label"))
    if not entries:
        raise ValueError(f"{table} names no images")
    used = [column for column in ("path", "label", "patient", "split") if column in columns]
    gaps = [
        f"line {line}: {column}"
        for line, entry in enumerate(entries, start=2)
        for column in used
        if not entry[column].strip()
    ]
    if gaps:
        raise ValueError(f"{table} has {len(gaps)} empty fields: {listed(gaps)}")
    root = pathlib.Path(source).expanduser() if source else table.parent
    masks = [column for column in FEATURES.values() if column in columns]
    rows = [{column: entry[column].strip() for column in (*used, *masks)} for entry in entries]
    for column in ("path", *masks):
        _check_paths([row[column] for row in rows], table, root)
    rows = [
        {
            **row,
            "path": root / row["path"],
            "id": pathlib.PurePath(row["path"]).as_posix(),
            **{column: root / row[column] if row[column] else None for column in masks},
        }
        for row in rows
    ]
    counts = collections.Counter(row["id"] for row in rows)
    twice = sorted(name for name, count in counts.items() if count > 1)
    if twice:
        raise ValueError(
            f"{len(twice)} images are listed more than once in {table}: {listed(twice)}"
        )
    rows = present(rows, table, allow_missing=allow_missing)
    _check_masks(rows, masks, table)
    if "split" in used:
        unknown = sorted({row["split"] for row in rows} - SPLITS.keys())
        if unknown:
            raise ValueError(
                f"unknown splits in {table}: {listed(unknown)}; use {', '.join(SPLITS)}"
            )
        rows = [{**row, "split": SPLITS[row["split"]]} for row in rows]
    return rows


def _check_masks(rows: Sequence[Row], columns: Sequence[str], table: pathlib.Path) -> None:
    """Refuses masks that are not there.

    Raises:
        FileNotFoundError: Naming all of them.
    """
    named = [row[column] for row in rows for column in columns if row[column]]
    if missing := [str(path) for path in named if not path.is_file()]:
        raise FileNotFoundError(
            f"{len(missing)} of {len(named)} masks of {table} are not there: {listed(missing)}. "
            "Add them, or leave their fields empty"
        )


def check_classes(rows: Sequence[Row]) -> None:
    """Refuses one class spelled in two ways, and fewer than two classes unless there are masks."""
    spellings: dict[str, dict[str, None]] = collections.defaultdict(dict)
    for row in rows:
        spellings[" ".join(row["label"].split()).lower()][row["label"]] = None
    if twice := [", ".join(map(repr, names)) for names in spellings.values() if len(names) > 1]:
        raise ValueError(
            f"classes that differ only in case or blanks: {'; '.join(twice)}; write each one way"
        )
    if len(spellings) < 2 and not any(row.get(name) for row in rows for name in FEATURES.values()):
        labels = ", ".join(sorted({row["label"] for row in rows}))
        raise ValueError(f"at least 2 classes are needed, found {len(spellings)}: {labels}")


def _check_paths(paths: Sequence[str], table: pathlib.Path, root: pathlib.Path) -> None:
    """Refuses paths of a table that lead out of a folder, or go by way of its parent.

    Raises:
        ValueError: With the lines of all of them.
    """
    lines = [f"line {line}: {path}" for line, path in enumerate(paths, start=2)]
    pairs = list(zip(lines, paths, strict=True))
    outside = [line for line, path in pairs if not _leads_into(root / path, root)]
    if outside:
        raise ValueError(
            f"{len(outside)} files of {table} are outside of {root}: {listed(outside)}; move "
            "them into it, or give a --source=DIR that holds them"
        )
    roundabout = [line for line, path in pairs if ".." in pathlib.PurePath(path).parts]
    if roundabout:
        raise ValueError(
            f"{len(roundabout)} files of {table} are named by way of '..', so that one could have "
            f"two names: {listed(roundabout)}; name each as it lies below {root}"
        )


def _leads_into(path: pathlib.Path, folder: pathlib.Path) -> bool:
    """True if a path, its links followed, is one in the folder."""
    try:
        return path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):  # a circle of links, or no name of a file
        return False

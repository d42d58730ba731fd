"""The one format in which data comes: a folder with ``metadata.parquet``, images, meshes and ``dataset.json``.

A prepared folder is whole or absent: scripts build it in a folder beside it and rename that at the end
(`data_scripts.output`).
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
import trimesh

from lib.errors import InputError
from lib.files import read_json, sha256

METADATA = "metadata.parquet"
INFO = "dataset.json"
CARD = "README.md"  # its head tells Hugging Face `datasets` which file is the table
CARD_TEXT = """---
configs:
- config_name: default
  data_files: metadata.parquet
---
# {name}
A prepared folder: `dataset.json` explains the columns of `metadata.parquet`, whose paths are relative to this folder.
"""
SPLITS = ("train", "val", "test")
FILE_COLUMNS = ("image", "mask", "normal", "mesh")
STRETCH = ["stretch_x", "stretch_y", "stretch_z"]


@dataclass(frozen=True)
class Column:
    """Kind of value ("text" or "number"), whether it may be missing, and what it means."""

    kind: str
    required: bool
    meaning: str


COLUMNS = {
    "id": Column("text", True, "unique name of the sample"),
    "category": Column("text", True, "class of the object"),
    "model": Column("text", True, "object that the image shows; samples of one model share a split"),
    "split": Column("text", True, "train, val or test"),
    "image": Column("text", True, "relative path, RGBA PNG, straight alpha"),
    "mask": Column("text", False, "relative path, one channel; missing: alpha of the image"),
    "normal": Column("text", False, "relative path, 16-bit RGB PNG, camera frame (x right, y down, z forward)"),
    "mesh": Column("text", False, "relative path, PLY in the unit cube, outer surface"),
    "stretch_x": Column("number", False, "factor on the mesh's x; the product is centred, longest side 1"),
    "stretch_y": Column("number", False, "factor on the mesh's y"),
    "stretch_z": Column("number", False, "factor on the mesh's z"),
    "azimuth": Column("number", False, "degrees; 0: camera at +y, 90: camera at -x"),
    "elevation": Column("number", False, "degrees; positive: camera above"),
    "tilt": Column("number", False, "degrees; roll about the viewing axis"),
    "distance": Column("number", False, "camera to world origin, world units (longest side of the object = 1)"),
    "focal_length": Column("number", False, "image widths"),
    "center_x": Column("number", False, "principal point, image widths from the left"),
    "center_y": Column("number", False, "principal point, image widths from the top"),
    "caption": Column("text", False, "one phrase in English"),
}


@dataclass(frozen=True)
class Prepared:
    """A prepared folder that was read and checked."""

    folder: Path
    info: dict[str, Any]  # ``dataset.json``: name, source, licence, version, image_size, counts, checksum
    metadata: pd.DataFrame  # one row a sample, columns as in `COLUMNS`

    def path(self, relative: str) -> Path:
        """Full path of a file that a row names."""
        return self.folder / relative


def read_prepared(folder: str | Path) -> Prepared:
    """Read a prepared folder and check all of it but the pixels.

    Raises
    ------
    InputError
        If the folder or a part of it is missing, was changed, or a column is missing or of another type.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"There is no prepared folder {folder}; make one with a script of data_scripts/.")
    for name in (INFO, METADATA):
        if not (folder / name).is_file():
            raise InputError(f"The prepared folder {folder} is partial: {name} is missing; prepare it again.")
    info = read_json(folder / INFO)
    if not isinstance(info, dict) or info.get("metadata_sha256") != sha256(folder / METADATA):
        raise InputError(f"{folder / METADATA} does not fit the checksum in {INFO}; prepare the folder again.")
    try:
        metadata = pd.read_parquet(folder / METADATA)
    except (OSError, ValueError) as error:  # pyarrow's errors derive from these; their words are several sentences
        what = f"{folder / METADATA} is no readable parquet file ({type(error).__name__})"
        raise InputError(f"{what}; prepare the folder again.") from error
    check_metadata(metadata, folder)
    text = {name: _text(metadata[name]) for name, column in COLUMNS.items() if column.kind == "text"}
    return Prepared(folder, info, metadata.assign(**text))


def write_metadata(folder: Path, rows: Iterable[Mapping[str, Any]], info: Mapping[str, Any]) -> Prepared:
    """Write ``metadata.parquet``, ``dataset.json`` and a card into a folder that holds the files already.

    Parameters
    ----------
    rows : iterable of mappings
        Keys from ``COLUMNS``; what is left out is missing.
    info : mapping
        name, source, licence, version, image_size; counts, checksum and columns are added.

    Raises
    ------
    InputError
        If the rows do not make a valid folder; ``dataset.json`` is not written then.
    """
    metadata = pd.DataFrame.from_records(list(rows), columns=list(COLUMNS))
    for name, column in COLUMNS.items():
        metadata[name] = metadata[name].astype("float64") if column.kind == "number" else _text(metadata[name])
    check_metadata(metadata, folder)
    metadata.to_parquet(folder / METADATA, index=False)
    counts = metadata.groupby(["category", "split"]).size()
    full = {
        **info,
        "samples": len(metadata),
        "counts": {c: {s: int(counts.get((c, s), 0)) for s in SPLITS} for c in sorted(set(metadata.category))},
        "metadata_sha256": sha256(folder / METADATA),
        "columns": {name: column.meaning for name, column in COLUMNS.items()},
    }
    if not (folder / CARD).exists():
        (folder / CARD).write_text(CARD_TEXT.format(**info), encoding="utf-8")
    (folder / INFO).write_text(json.dumps(full, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return Prepared(folder, full, metadata)


def load_mesh(prepared: Prepared, row: Any) -> trimesh.Trimesh:
    """The shape of a sample (a row of ``prepared.metadata``): the model's mesh, stretched, centred, longest side 1.

    Raises
    ------
    InputError
        If the sample has no mesh or its file cannot be read.
    """
    if not isinstance(row.mesh, str):
        raise InputError(f"The sample {row.id} of {prepared.folder} has no mesh; choose a data set with meshes.")
    try:
        mesh = trimesh.load(prepared.path(row.mesh), process=False, force="mesh")
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise InputError(f"The mesh {prepared.path(row.mesh)} cannot be read ({error}); prepare it again.") from error
    stretch = np.array([getattr(row, name) for name in STRETCH], dtype=float)
    vertices = mesh.vertices * np.where(np.isfinite(stretch), stretch, 1.0)
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    return trimesh.Trimesh((vertices - (low + high) / 2) / (high - low).max(), mesh.faces, process=False)


def check_metadata(metadata: pd.DataFrame, folder: Path) -> None:
    """Refuse tables with missing or wrongly typed columns, unknown splits, repeated ids, or files that are missing."""
    name = folder / METADATA
    for column, expected in COLUMNS.items():
        if column not in metadata:
            raise InputError(f"{name} has no column {column!r}; prepare the folder again.")
        _check_column(metadata[column], expected, f"column {column!r} of {name}")
    if metadata.empty:
        raise InputError(f"{name} has no rows; prepare the folder again.")
    unknown = set(metadata["split"]) - set(SPLITS)
    if unknown:
        raise InputError(f"{name} has the split {min(unknown)!r}; only train, val and test are known.")
    repeated = metadata["id"][metadata["id"].duplicated()]
    if len(repeated):
        raise InputError(f"{name} has the id {repeated.iloc[0]!r} twice; ids must be unique.")
    for relative in pd.unique(metadata[list(FILE_COLUMNS)].values.ravel()):
        if not isinstance(relative, str):  # missing
            continue
        path = PurePosixPath(relative)
        if path.is_absolute() or ".." in path.parts:
            raise InputError(f"{name} names {relative!r}, which is outside the folder; do not use it.")
        if not (folder / path).is_file():
            raise InputError(f"The prepared folder {folder} is partial: {relative} is missing; prepare it again.")


def _check_column(values: pd.Series, expected: Column, name: str) -> None:
    if expected.required and values.isna().any():
        raise InputError(f"The {name} has missing values; every row needs one.")
    given = values.dropna()
    if expected.kind == "number":
        wanted = "finite numbers"
        right = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
        wrong = given if not right else given[~np.isfinite(given)]
    else:
        wanted = "text"
        wrong = given[[not isinstance(value, str) for value in given]]
    if len(wrong):
        raise InputError(f"The {name} must hold {wanted}; it holds {wrong.iloc[0]!r} ({values.dtype}).")


def _text(values: pd.Series) -> pd.Series:
    """Python strings, and None for what is missing whatever pandas made of it."""
    return values.astype(object).where(values.notna(), None)

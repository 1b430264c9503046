"""Images in tables: Parquet files in the Hugging Face `datasets` layout, or a data set of the hub."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from potstill.data.raw import VALID_NAMES, Raw, stamp
from potstill.data.spec import Data
from potstill.data.stores import Parquet, Rows, reading
from potstill.errors import did_you_mean

HUB_NAMES = {
    "cifar10": "uoft-cs/cifar10",
    "cifar100": "uoft-cs/cifar100",
    "fashion_mnist": "zalando-datasets/fashion_mnist",
    "imagenet": "ILSVRC/imagenet-1k",
    "stl10": "tanganke/stl10",
    "tiny_imagenet": "zh-plus/tiny-imagenet",
}
_SPLIT = re.compile(rf"^(train|{'|'.join(VALID_NAMES)})(?![a-z])", re.IGNORECASE)


class Columns(NamedTuple):
    image: str
    label: str
    names: tuple[str, ...] | None


def parquet_files(root: Path) -> list[Path]:
    """Parquet files in `root`, else in `root/data`, else in folders named like splits."""
    if root.is_file():
        return [root]
    if files := sorted(root.glob("*.parquet")) or sorted(root.glob("data/*.parquet")):
        return files
    return [file for file in sorted(root.glob("*/*.parquet")) if _SPLIT.match(file.parent.name)]


def parquet(root: Path, files: Sequence[Path], data: Data) -> tuple[Raw, Raw | None]:
    """Training and validation split of a folder of Parquet files.

    Raises:
        ValueError: no training files, a file that is no Parquet, or columns that cannot be found.
    """
    groups: dict[str, list[Path]] = {}
    for file in files:
        match = _SPLIT.match(file.name) or (_SPLIT.match(file.parent.name) if file.parent != root else None)
        groups.setdefault(match[1].lower() if match else "", []).append(file)
    unnamed = groups.pop("", [])
    if not groups:
        groups = {"train": unnamed}
    if "train" not in groups:
        raise ValueError(f"no training files train-*.parquet in {root}; there is {_shown(files)}")
    base = root.parent if root.is_file() else root
    train, columns = _parquet_split("train", groups["train"], base, data, None)
    held = next((name for name in VALID_NAMES if name in groups), None)
    return train, (_parquet_split(held, groups[held], base, data, columns)[0] if held else None)


def _parquet_split(
    split: str, files: Sequence[Path], base: Path, data: Data, columns: Columns | None
) -> tuple[Raw, Columns]:
    shard, group, rows, weight, found = [], [], [], [], None
    for number, path in enumerate(files):
        with reading(path, lambda path=path: pq.ParquetFile(path)) as file:
            here = find_columns(file.schema_arrow, data, str(path))
            found = found or here
            expected = columns or found
            if here != expected:
                what = "class names" if here[:2] == expected[:2] else "columns"
                raise ValueError(f"{path}: other {what} than the other files: {_brief(here)} and {_brief(expected)}")
            for place in range(file.num_row_groups):
                about = file.metadata.row_group(place)
                shard, group = [*shard, number], [*group, place]
                rows, weight = [*rows, about.num_rows], [*weight, about.total_byte_size]
    assert found is not None
    arrays = [np.array(values, dtype=np.int64) for values in (shard, group, np.cumsum(rows), weight)]
    store = Parquet(str(base), [stamp(path, base) for path in files], found.image, *arrays)
    labels = _labels(store.values(found.label) if rows else None, found.label, split)
    return Raw(split, labels, found.names, store, np.arange(len(labels))), found


def hub(data: Data, quiet: bool) -> tuple[Raw, Raw | None]:
    """Training and validation split of a Hugging Face data set.

    Raises:
        ValueError: `datasets` is not installed, the data set cannot be had, or columns that cannot be found.
    """
    name = HUB_NAMES.get(data.name, data.name)
    local = "or name a local copy with --data.root"
    try:
        datasets: Any = importlib.import_module("datasets")
    except ImportError as error:
        raise ValueError(
            f"{data.name!r} comes from the Hugging Face hub, which needs: pip install 'potstill[hub]'; {local}"
        ) from error
    try:
        if quiet:
            datasets.disable_progress_bars()
        found = datasets.load_dataset(name)
    except Exception as error:  # network, server, cache and format errors of three libraries
        raise ValueError(
            f"could not load {name!r} from the Hugging Face hub ({type(error).__name__}: {error}); "
            f"without a network connection name a local copy with --data.root"
        ) from error
    finally:
        if quiet:
            datasets.enable_progress_bars()
    if "train" not in found:
        raise ValueError(f"{name!r} has no split train; it has {', '.join(found)}")
    held = next((split for split in VALID_NAMES if split in found), None)
    return tables(found["train"], None if held is None else found[held], data, name, held or "valid")


def tables(train: Any, valid: Any | None, data: Data, name: str, held: str = "valid") -> tuple[Raw, Raw | None]:
    """Training and validation split of two `datasets.Dataset` objects.

    Raises:
        ValueError: columns that cannot be found, or that differ between the two.
    """
    columns = find_columns(train.features.arrow_schema, data, name)
    first = _hub_split("train", train, columns)
    if valid is None:
        return first, None
    other = find_columns(valid.features.arrow_schema, data, name)
    if other != columns:
        raise ValueError(f"{name!r}: split {held!r} has {_brief(other)}, split 'train' {_brief(columns)}")
    return first, _hub_split(held, valid, columns)


def _hub_split(split: str, table: Any, columns: Columns) -> Raw:
    found = table.select_columns([columns.label]).with_format("arrow")[:].column(0)
    labels = _labels(found, columns.label, split)
    return Raw(split, labels, columns.names, Rows(table, columns.image, split), np.arange(len(labels)))


def find_columns(schema: pa.Schema, data: Data, where: str) -> Columns:
    """Which columns hold the image and the label, and the names of the classes.

    Raises:
        ValueError: a named column is missing, or there is no telling which one is meant.
    """
    features = _features(schema)
    there = ", ".join(f"{field.name} ({field.type})" for field in schema)
    for option, name in (("image", data.image), ("label", data.label)):
        if name is not None and name not in schema.names:
            raise ValueError(f"{where} has no {option} column {name!r}; {did_you_mean(name, schema.names)}")
    images = [field.name for field in schema if _holds_images(field.type)]
    image = data.image or next((n for n in images if features.get(n, {}).get("_type") == "Image"), None)
    image = image or next((n for n in ("image", "img") if n in images), images[0] if len(images) == 1 else None)
    if image is None:
        raise ValueError(
            f"{where}: no telling which column holds the images (a struct with bytes, or binary); name it "
            f"with --data.image; columns: {there}"
        )
    if image not in images:
        raise ValueError(f"{where}: column {image!r} holds {schema.field(image).type}, not images; columns: {there}")
    numbers = [field.name for field in schema if pa.types.is_integer(field.type)]
    label = data.label or next((n for n in ("label", "fine_label") if n in schema.names), None)
    label = label or (numbers[0] if len(numbers) == 1 else None)
    if label is None:
        raise ValueError(f"{where}: no telling which column is the label; name it with --data.label; columns: {there}")
    names = features.get(label, {}).get("names")
    names = list(names.values()) if isinstance(names, dict) else names
    return Columns(image, label, tuple(map(str, names)) if names else None)


def _features(schema: pa.Schema) -> dict[str, dict[str, Any]]:
    """Hugging Face's notes on the columns; empty where there are none."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError):
        return {}
    return {name: value for name, value in features.items() if isinstance(value, dict)}


def _holds_images(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(kind.field(place).name == "bytes" for place in range(kind.num_fields))
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _labels(column: pa.ChunkedArray | None, name: str, split: str) -> np.ndarray:
    if column is None or not len(column):
        raise ValueError(f"split {split!r} has no rows")
    if column.null_count:
        row = column.is_null().to_pylist().index(True)
        raise ValueError(f"split {split!r}, row {row}: no {name}; {column.null_count} of {len(column)} are missing")
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return np.array(column.to_pylist(), dtype=np.int64)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return np.array(column.to_pylist(), dtype=object)
    raise ValueError(f"column {name!r} holds {kind}; a label is an integer or a string")


def _brief(columns: Columns) -> str:
    names = f", {len(columns.names)} classes {', '.join(columns.names[:3])} …" if columns.names else ""
    return f"image {columns.image!r}, label {columns.label!r}{names}"


def _shown(files: Sequence[Path]) -> str:
    return ", ".join(file.name for file in files[:5]) + (f" … ({len(files)} in all)" if len(files) > 5 else "")

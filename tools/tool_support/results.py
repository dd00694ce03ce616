"""Writing what a tool has found: JSON, CSV, tables and files."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from prettytable import PrettyTable, TableStyle

from mmmetaformer.engine.errors import UserError


def not_a_file(out: str) -> Path:
    """The folder that ``--out`` names, which need not exist yet.

    Raises:
        UserError: If there is a file of that name.
    """
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out {out}: there is a file of that name, expected a folder")
    return folder


def make_folder(folder: Path) -> None:
    """Make the folder of the results.

    Raises:
        UserError: If that cannot be done.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {folder}: {error}") from error


def as_json(content: Mapping[str, Any]) -> bytes:
    """A JSON file."""
    return (json.dumps(content, indent=2, allow_nan=False) + "\n").encode()


def as_csv(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """A CSV file with the keys of the rows as its header; None is an empty field."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def as_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table in Markdown; columns of numbers are aligned to the right."""
    table = PrettyTable(list(rows[0]))
    table.set_style(TableStyle.MARKDOWN)
    for name in table.field_names:
        cells = [_cell(row[name]) for row in rows]
        numbers = all(re.fullmatch(r"-|[\d.]+%?", cell) for cell in cells)
        table.align[name] = "r" if numbers else "l"
    table.add_rows([[_cell(value) for value in row.values()] for row in rows])
    return table.get_string()


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def write_files(out: Path, files: Iterable[tuple[str, bytes]]) -> None:
    """Write files into a folder, each completely or not at all, and say so.

    Raises:
        UserError: If the folder cannot be written.
    """
    for name, content in files:
        target = out / name
        part = out / f".{name}.{os.getpid()}"
        try:
            part.write_bytes(content)
            part.replace(target)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise UserError(f"{target} cannot be written: {error}") from error
        print(target, flush=True)

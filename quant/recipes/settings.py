"""Defaults from one TOML file, overridden by model family and by arguments; each value knows where it came from."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from ..errors import Refused, one_of
from .families import FAMILIES, GENERIC
from .methods import ALIASES, CHOICES, METHODS

COMMON = "quantization"  # the table for all models
# Key -> its values. Components name a method; granularity is for all of them.
VALUES: dict[str, tuple[str, ...]] = {
    "encoder": (*METHODS, *ALIASES),
    "transformer": (*METHODS, *ALIASES),
    "vae": (*METHODS, *ALIASES),
    "granularity": CHOICES,
}
DEFAULT_ORIGIN = "built in"
# Other tools' names of the same keys.
RENAMED = {
    "quantization_encoder": "encoder",
    "quantization_transformer": "transformer",
    "quantization_vae": "vae",
    "quantization_granularity": "granularity",
}
FILE_NAME = "scaled_fp8.toml"
LONGEST = 1 << 14  # bytes: a key of many parts takes TOML's reader the square of their number
BUILT_IN = {"encoder": "none", "transformer": "auto", "vae": "none", "granularity": "per-row"}


@dataclass(frozen=True)
class Setting:
    """A value and where it came from, for the report."""

    value: str
    origin: str

    def __str__(self) -> str:
        return f"{self.value} ({self.origin})"

    @property
    def is_default(self) -> bool:
        """Whether nobody chose it."""
        return self.origin == DEFAULT_ORIGIN


@dataclass(frozen=True)
class Settings:
    """A settings file. tables: table -> key -> value, all checked; source: what to call it in reports."""

    tables: Mapping[str, Mapping[str, str]]
    source: str = "no settings file"

    def resolve(
        self, key: str, family: str | None = None, argument: str | None = None, built_in: str | None = None
    ) -> Setting:
        """The value of a key of VALUES: the argument, else the family's table, else the common one, else built_in."""
        one_of("key", key, VALUES)
        if argument is not None:
            check(key, argument)
            return Setting(argument, "argument")
        for table in (family, COMMON):
            if table and key in self.tables.get(table, {}):
                return Setting(self.tables[table][key], f"[{table}] in {self.source}")
        return Setting(built_in or BUILT_IN[key], DEFAULT_ORIGIN)


def read_settings(path: str | Path | None = None) -> Settings:
    """The settings of a TOML file, all of it checked; without a path, or a file there, the built-in ones.

    A path that was given explicitly must exist: whoever names a file wants it read.
    """
    if path is None:
        return Settings({})
    name = Path(path).name
    try:
        tables = parsed(text_of(Path(path)))
    except OSError as problem:
        raise Refused(f"{name}: cannot be read: {problem.strerror or problem}; give another settings file.") from None
    except (ValueError, RecursionError) as problem:  # what TOML and UTF-8 errors are
        raise Refused(f"{name}: is not TOML: {problem}; correct it there.") from None
    return Settings(checked(tables, name), name)


def text_of(path: Path) -> str:
    """A settings file's text; Refused for what is no file or longer than such a file is."""
    if path.exists() and not path.is_file():
        raise Refused(f"{path.name}: is not a regular file; give another settings file.")
    if path.stat().st_size > LONGEST:
        raise Refused(f"{path.name}: has more than {LONGEST} bytes; give another settings file.")
    return path.read_text(encoding="utf-8")


def parsed(text: str) -> dict[str, Any]:
    """Python 3.10 has no TOML of its own; tomli is the same."""
    name = "tomllib" if sys.version_info >= (3, 11) else "tomli"
    try:
        return import_module(name).loads(text)
    except ImportError:
        raise Refused("A settings file needs TOML, which Python 3.10 has not; install tomli.") from None


def find_settings(folder: str | Path, name: str = FILE_NAME) -> Settings:
    """The settings of a folder, built-in ones where it has no such file."""
    path = Path(folder) / name
    return read_settings(path if path.exists() else None)


def checked(tables: Mapping[str, Any], source: str) -> dict[str, dict[str, str]]:
    """The tables, once every table, key and value is known; Refused by name otherwise."""
    for table, entries in tables.items():
        one_of(f"{source}: table", table, (COMMON, *FAMILIES))
        if not isinstance(entries, dict):
            raise Refused(f"{source}: {table} {entries!r} is no table; write [{table}] and its keys below.")
        for key, value in entries.items():
            where = f"{source}: [{table}] "
            check(renamed(key), value, where)
            check_reaches(renamed(key), table, where + key)
            check_once(key, entries, where + key)
    return {table: {renamed(key): value for key, value in entries.items()} for table, entries in tables.items()}


def renamed(key: str) -> str:
    return RENAMED.get(key, key)


def check_once(key: str, entries: Mapping[str, Any], where: str) -> None:
    if key in RENAMED and RENAMED[key] in entries:
        raise Refused(f"{where} is the same setting as {RENAMED[key]}, which is there too; leave one of them out.")


def check_reaches(key: str, table: str, where: str) -> None:
    """Refuse what would be ignored: a family is of one component, and its table is asked for that one only."""
    own = FAMILIES[table].component if table in FAMILIES else key
    if key != "granularity" and key != own:
        raise Refused(
            f"{where} would never be used: {table} is a family of the component {own}; put {key} into "
            f"[{COMMON}], or into the table of a family of that component."
        )


def check(key: str, value: object, where: str = "") -> None:
    if key == "component_type":
        raise Refused(f"{where}{key} is not a setting; give the component's own key, one of {', '.join(GENERIC)}.")
    one_of(f"{where}{key}", value, VALUES[one_of(f"{where}key", key, VALUES)])

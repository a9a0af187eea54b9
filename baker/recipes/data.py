"""Data of a recipe: tables merged, and overridden from the command line."""

from __future__ import annotations

import datetime
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from baker.errors import UsageError
from baker.model import Recipe
from baker.toml_file import KeyPath, describe


def merge_data(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """``above`` over ``below``, table by table."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        both_tables = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[key] = merge_data(old, value) if both_tables else value  # type: ignore[arg-type]
    return merged


def apply_overrides(recipe: Recipe, overrides: Sequence[str]) -> Recipe:
    """The recipe with ``KEY=VALUE`` set in its data on every target.

    A dotted key goes into tables. A value that is not TOML is text. Raises UsageError.
    """
    targets = dict(recipe.targets)
    for override in overrides:
        key, equals, text = override.partition("=")
        parts = key.strip().split(".")
        if not equals or not all(parts):
            raise UsageError(
                f'--set {override}: not KEY=VALUE (as in "worker_processes=8" or "tls.port=8443")'
            )
        for target, spec in targets.items():
            _check_parts(override, parts, spec.data)
            above: Any = _parse_value(text)
            for part in reversed(parts):
                above = {part: above}
            targets[target] = replace(spec, data=merge_data(spec.data, above))
    return replace(recipe, targets=targets)


def _check_parts(override: str, parts: Sequence[str], data: Any) -> None:
    for position, part in enumerate(parts[:-1], 1):
        data = data.get(part, {})
        if not isinstance(data, Mapping):
            raise UsageError(
                f"--set {override}: data.{'.'.join(parts[:position])} is {describe(data)}, no table"
            )


def _parse_value(text: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    if set(parsed) != {"value"} or any(find_dates(parsed, ())):
        return text
    return parsed["value"]


def find_dates(value: Any, path: KeyPath) -> Iterator[tuple[KeyPath, Any]]:
    """Dates and times in data: they have no form that survives the way to the recipe (JSON)."""
    if isinstance(value, datetime.date | datetime.time):
        yield path, value
    elif isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from find_dates(item, (*path, key))

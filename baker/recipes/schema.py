"""What recipe.toml may hold: the one table behind validation, messages and the JSON Schema for editors."""

from __future__ import annotations

from typing import Any

from baker.aws_settings import AWS_SETTINGS
from baker.project_schema import DURATION, LIMITS, LOCAL_SETTINGS, MAX_AGE, RETRIES
from baker.toml_file import Schema

DISTRIBUTIONS = ("debian", "ubuntu")
TREE_FORMATS = ("oci", "tar")
RESERVED_NAMES = (*DISTRIBUTIONS, *TREE_FORMATS)
"""No recipe can have these names: ``from = "debian:trixie"`` would be read as a recipe's channel."""

_VARIABLE: Schema = {
    "type": "string",
    "pattern": r"^[A-Za-z_][A-Za-z0-9_]*$",
    "title": "a variable's name",
}
_GLOB: Schema = {
    "type": "string",
    "pattern": r"^(?![/~])(?!(.*/)?\.\.(/|$))(?!.*([^/]\*\*|\*\*[^/]))[^\n]+$",
    "title": "a path or glob inside the project, such as templates/**/*.j2",
}
AUDIT: Schema = {
    "type": "object",
    "title": "a table",
    "additionalProperties": False,
    "properties": {
        "allow": {
            "type": "array",
            "items": {
                "type": "string",
                "pattern": r"^/(?!(.*/)?\.\.(/|$))(?!.*([^/]\*\*|\*\*[^/]))[^\n]*$",
                "title": "an absolute path or glob, such as /srv/site/cache/**",
            },
            "title": "a list of absolute paths or globs",
            "description": "What may change while a machine serves",
        },
        "ports": {
            "type": "array",
            "items": {
                "type": "integer",
                "exclusiveMinimum": 0,
                "exclusiveMaximum": 65536,
                "title": "a port (1 to 65535)",
            },
            "title": "a list of ports",
            "description": "What may be listened on beyond what a fresh machine does",
        },
    },
    "description": "What an audit of a deployed machine takes for no drift; never part of a fingerprint",
}
FROM: Schema = {
    "anyOf": [
        {"type": "string"},
        {"type": "object", "additionalProperties": {"type": "string", "title": "text"}},
    ],
    "title": 'a recipe ("base:latest"), a distribution ("debian:trixie"), a root file system ("tar:FILE", '
    '"oci:FOLDER") or a table that finds an AMI',
    "description": "What the bake starts from",
}
DATA: Schema = {"type": "object", "title": "a table", "description": "host.data in deploy.py"}

RECIPE_SCHEMA: Schema = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "description": {"type": "string", "title": "text", "description": "One line for lists"},
        "from": FROM,
        "secrets": {
            "type": "array",
            "items": _VARIABLE,
            "title": "a list of variable names",
            "description": "Variables handed to the recipe that never reach fingerprint, log or image",
        },
        "environment": {
            "type": "array",
            "items": _VARIABLE,
            "title": "a list of variable names",
            "description": "Variables that the recipe may read; their values are part of the fingerprint",
        },
        "inputs": {
            "type": "array",
            "items": _GLOB,
            "title": "a list of globs",
            "description": "Further files that the result depends on, from the project's root",
        },
        "groups": {
            "type": "array",
            "items": {"type": "string", "pattern": r"^\S+$", "title": "a group's name"},
            "title": "a list of group names",
            "description": "pyinfra groups that the machine is in",
        },
        "workdir": {
            "type": "string",
            "pattern": r"^(?!/)(?!(.*/)?\.\.(/|$))[^\n]+$",
            "title": 'a folder inside the recipe\'s folder, such as "."',
            "description": "Where relative paths start, from the recipe's folder; else the project's root",
        },
        "timeout": {**DURATION, "description": "Longest time of one operation"},
        "total_timeout": {**DURATION, "description": "Longest time of the whole recipe"},
        "limits": LIMITS,
        "retries": RETRIES,
        "max_age": MAX_AGE,
        "data": DATA,
        "audit": AUDIT,
        "targets": {
            "type": "object",
            "title": "a table",
            "additionalProperties": False,
            "properties": {
                "local": {
                    "type": "object",
                    "title": "a table",
                    "additionalProperties": False,
                    "properties": {"from": FROM, "data": DATA, **LOCAL_SETTINGS},
                },
                "aws": {
                    "type": "object",
                    "title": "a table",
                    "additionalProperties": False,
                    "properties": {"from": FROM, "data": DATA, **AWS_SETTINGS},
                },
            },
        },
    },
}


def recipe_schema() -> dict[str, Any]:
    """JSON Schema of recipe.toml."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "baker recipe",
        **RECIPE_SCHEMA,
    }

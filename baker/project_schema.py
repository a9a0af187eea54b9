"""What baker.toml may hold: the one table behind validation and messages."""

from __future__ import annotations

from collections.abc import Mapping

from baker.ages import AGE
from baker.aws_settings import AWS_ACCESS, AWS_RESULT_SETTINGS, AWS_SETTINGS
from baker.gates import REQUIREMENT
from baker.model import CHANNEL_NAME
from baker.toml_file import Schema

_URL: Schema = {"type": "string", "pattern": r"^https?://[^\s/]+", "title": "an http:// or https:// address"}
_ARCHIVE: Schema = {
    "type": "string",
    "pattern": r"^(https?|file|copy)://?[^\s]+",
    "title": "an archive's address (http://, https:// or file://)",
}

_REPOSITORY: Schema = {
    "type": "object",
    "title": "a table",
    "additionalProperties": False,
    "required": ["uri", "suite", "keyring"],
    "properties": {
        "uri": {
            "type": "string",
            "pattern": r"^(https?://[^\s/]+[^\s]*|file:(//)?/[^\s]*|(?![/~-])[^\s:]+)$",
            "title": "an http:// or https:// address, file:///FOLDER or a folder of the project",
            "description": "Where it is; a folder is there while baking and leaves no trace in the image",
        },
        "suite": {"type": "string", "pattern": r"^[^\s]+$", "title": "a suite, such as trixie or ./"},
        "components": {
            "type": "array",
            "items": {"type": "string", "pattern": r"^[^\s]+$", "title": "a component"},
            "title": "a list of components",
            "description": 'Default: ["main"]; none where the suite is a path (ends in /)',
        },
        "keyring": {
            "type": "string",
            "pattern": r"^[^\n]+$",
            "title": "a file",
            "description": "The public keys that sign it (gpg --export), a file of the project",
        },
    },
}

_AGE: Schema = {"type": "string", "pattern": r"^[0-9]{1,5}[hdw]$", "title": 'an age ("12h", "30d", "2w")'}

DURATION: Schema = {
    "anyOf": [
        {"type": "number", "exclusiveMinimum": 0},
        {"type": "string", "pattern": r"^(?=.*[1-9])[0-9]+(\.[0-9]+)?[smh]$"},
    ],
    "title": 'seconds or a text such as "30m"',
}
MAX_AGE: Schema = {
    **_AGE,
    "description": "A build that is older is baked again, whatever is known",
}
RETRIES: Schema = {
    "type": "integer",
    "exclusiveMinimum": -1,
    "title": "a number of times",
    "description": "How often what failed for a passing reason is tried again, waiting longer each time (2)",
}
LIMITED_STAGES = ("launch", "configure", "seal", "capture", "verify", "distribute")
"""Stages that can have a time limit; the others take no time worth one."""

LIMITS: Schema = {
    "type": "object",
    "title": "a table",
    "additionalProperties": False,
    "properties": dict.fromkeys(LIMITED_STAGES, DURATION),
    "description": "Longest time of a stage",
}

_CHANNEL: Schema = {"type": "string", "pattern": CHANNEL_NAME.pattern, "title": "the name of a channel"}

NIGHTLY_SCHEMA: Schema = {
    "type": "object",
    "title": "a table",
    "additionalProperties": False,
    "properties": {
        "promote": {
            "type": "array",
            "items": _CHANNEL,
            "title": "a list of channels",
            "description": "Channels that go to what was baked, each where its gate allows, in this order",
        },
        "gate": {**_CHANNEL, "description": "Children are baked upon what their parent's channel holds"},
        "jobs": {
            "type": "integer",
            "exclusiveMinimum": 0,
            "title": "a number of bakes",
            "description": "How many bakes run at once (1)",
        },
        "jitter": {
            "type": "string",
            "pattern": AGE,
            "title": 'a length of time ("10m", "1h")',
            "description": "Waits a random time up to this before it begins, so that not all begin at once",
        },
        "wait": {
            "type": "string",
            "pattern": AGE,
            "title": 'a length of time ("10m", "1h")',
            "description": "How long it waits for another nightly that is at work in the catalog (it fails)",
        },
        "prune": {
            "type": "boolean",
            "title": "true or false",
            "description": "Whether images that [retention] lets go are deleted (true)",
        },
        "notify": {
            "type": "array",
            "items": {
                "type": "string",
                "pattern": r"^[^\s]+$",
                "title": "an apprise address or env:VARIABLE",
            },
            "title": "a list of apprise addresses",
            "description": "Who hears of failures, recoveries and of what changed",
        },
        "ping": {
            "type": "string",
            "pattern": r"^(https?://[^\s/]+|env:[A-Za-z_][A-Za-z0-9_]*$)",
            "title": "an http:// or https:// address, or env:VARIABLE",
            "description": "Dead man's switch: fetched at the end, /start before that, /fail after a failure",
        },
    },
}

BAKE_SCHEMA: Schema = {
    "type": "object",
    "title": "a table",
    "additionalProperties": False,
    "properties": {"max_age": MAX_AGE, "retries": RETRIES, "limits": LIMITS},
}

LOCAL_SETTINGS: Mapping[str, Schema] = {
    "mirror": {**_ARCHIVE, "description": "Archive that bootstraps come from and that images keep using"},
    "security_mirror": {**_ARCHIVE, "description": "The archive's security updates"},
    "http_proxy": {**_URL, "description": "Proxy that build instances use; never kept in an image"},
    "memory": {
        "type": "string",
        "pattern": r"^[1-9][0-9]{0,8}[KMGT]?$",
        "title": 'an amount of memory ("2G")',
        "description": "Memory that one machine may use, RAM file systems included (80 % of the host's)",
    },
    "pids": {
        "type": "integer",
        "exclusiveMinimum": 0,
        "pattern": r"^[1-9][0-9]{0,6}$",
        "title": "a number of processes",
        "description": "Processes and threads that one machine may have at once (4096)",
    },
    "repositories": {
        "type": "array",
        "items": _REPOSITORY,
        "title": "a list of tables",
        "description": "Further signed apt repositories, known from the first operation on",
    },
}
"""Settings of the local target, in baker.toml's [local] and in a recipe's [targets.local]."""

TARGET_SETTINGS: Mapping[str, Mapping[str, Schema]] = {
    "local": LOCAL_SETTINGS,
    "aws": {**AWS_SETTINGS, **AWS_ACCESS},
}
"""What a target's table in baker.toml, and BAKER_* variables, may say."""

RESULT_SETTINGS: Mapping[str, frozenset[str]] = {
    "local": frozenset(LOCAL_SETTINGS) - {"http_proxy", "memory", "pids"},
    "aws": AWS_RESULT_SETTINGS,
}
"""Settings that can change what a bake comes to: the fingerprint covers them, and no others."""

_RETENTION_RULES: Mapping[str, Schema] = {
    "keep_last": {
        "type": "integer",
        "exclusiveMinimum": 0,
        "title": "a number of versions",
        "description": "The newest ones of a recipe that may be used",
    },
    "keep_younger": {**_AGE, "description": "Whatever was made since"},
    "keep_labels": {
        "type": "array",
        "items": {
            "type": "string",
            "pattern": r"^[^\s=]+(=[^\n]*)?$",
            "title": 'a label ("keep", "tier=gold")',
        },
        "title": "a list of labels",
    },
    "channels": {
        "type": "object",
        "title": "a table",
        "additionalProperties": {"type": "integer", "exclusiveMinimum": 0, "title": "a number of versions"},
        "description": "For each channel, how many of the versions that it held last stay, for roll-back (2)",
    },
}

_GATE: Schema = {
    "type": "object",
    "title": "a table",
    "additionalProperties": False,
    "properties": {
        "after": {
            "type": "string",
            "pattern": CHANNEL_NAME.pattern,
            "title": "the name of a channel",
            "description": "The channel that must hold the image, or have held it",
        },
        "soak": {
            "type": "string",
            "pattern": AGE,
            "title": 'a length of time ("30m", "24h", "7d")',
            "description": "For how long at least, by the database's clock",
        },
        "require": {
            "type": "array",
            "title": "a list of requirements",
            "items": {
                "type": "string",
                "pattern": REQUIREMENT,
                "title": '"tests", "no-revoked-ancestor", "label:KEY" or "label:KEY=VALUE"',
            },
        },
    },
}

PROJECT_SCHEMA: Schema = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "catalog": {
            "type": "string",
            "pattern": r"^(sqlite:///.|postgresql(\+psycopg)?://)",
            "title": "sqlite:///PATH or postgresql://HOST/NAME",
        },
        "recipes": {"type": "string", "pattern": r"\S", "title": "a folder of the project"},
        **{
            target: {
                "type": "object",
                "title": "a table",
                "properties": properties,
                "additionalProperties": False,
            }
            for target, properties in TARGET_SETTINGS.items()
        },
        "bake": BAKE_SCHEMA,
        "channels": {"type": "object", "title": "a table", "additionalProperties": _GATE},
        "clean": {
            "type": "object",
            "title": "a table",
            "properties": {"logs": _AGE, "packages": _AGE},
            "additionalProperties": False,
        },
        "nightly": NIGHTLY_SCHEMA,
        "retention": {
            "type": "object",
            "title": "a table",
            "properties": {
                **_RETENTION_RULES,
                "recipes": {
                    "type": "object",
                    "title": "a table",
                    "additionalProperties": {
                        "type": "object",
                        "title": "a table",
                        "properties": _RETENTION_RULES,
                        "additionalProperties": False,
                    },
                },
            },
            "additionalProperties": False,
        },
    },
}

"""What environments/NAME.toml may hold, for validation, messages and editors; and what cloud-init knows."""

from __future__ import annotations

import base64
import gzip
import re
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from baker.aws_settings import ENVIRONMENT_AWS
from baker.model import CHANNEL_NAME, RECIPE_NAME
from baker.project_schema import LOCAL_SETTINGS
from baker.recipes.schema import AUDIT
from baker.toml_file import Schema, nearest

MAX_MACHINES = 100

_CLOUD_CONFIG = """
allow_public_ssh_keys ansible apk_repos apt apt_pipelining apt_reboot_if_required apt_update apt_upgrade
authkey_hash autoinstall bootcmd byobu_by_default ca-certs ca_certs chef chpasswd cloud_config_modules
cloud_final_modules cloud_init_modules create_hostname_file device_aliases disable_ec2_metadata
disable_root disable_root_opts disk_setup drivers fan final_message fqdn fs_setup groups growpart
grub-dpkg grub_dpkg hostname keyboard landscape launch-index locale locale_configfile lxd
manage_etc_hosts manage_resolv_conf mcollective merge_how merge_type migrate mount_default_fields mounts
no_ssh_fingerprints ntp output package_reboot_if_required package_update package_upgrade packages
password phone_home power_state prefer_fqdn_over_hostname preserve_hostname puppet random_seed reporting
resize_rootfs resolv_conf rh_subscription rpi rsyslog runcmd salt_minion snap spacewalk ssh
ssh_authorized_keys ssh_deletekeys ssh_fp_console_blacklist ssh_genkeytypes ssh_import_id
ssh_key_console_blacklist ssh_keys ssh_publish_hostkeys ssh_pwauth ssh_quiet_keygen swap system_info
timezone ubuntu_advantage ubuntu_pro updates user users vendor_data version wireguard write_files
yum_repo_dir yum_repos zypper
"""

CLOUD_CONFIG_KEYS = frozenset(_CLOUD_CONFIG.split())
"""Top-level keys of a cloud-config by cloud-init's own schema (``schema-cloud-config-v1.json`` of 26.2, which
has all of those that Debian 12's 22.4.2 has)."""

CLOUD_CONFIG_FILE_KEYS = ("path", "content", "source", "owner", "permissions", "encoding", "append", "defer")
CLOUD_CONFIG_ENCODINGS = (
    "gz",
    "gzip",
    *(f"{gz}{b}" for gz in ("", "gz+", "gzip+") for b in ("b64", "base64")),
    "text/plain",
)
"""What an item of ``write_files`` may say, by the same schema."""

_SECONDS: Schema = {
    "anyOf": [
        {"type": "number", "exclusiveMinimum": 0},
        {"type": "string", "pattern": r"^(?=.*[1-9])[0-9]{1,6}(\.[0-9]+)?[smhd]$"},
    ],
    "title": 'seconds or a text such as "30s" or "5m"',
}
_SECONDS_OR_NONE: Schema = {
    "anyOf": [
        {"type": "number", "exclusiveMinimum": 0},
        {"type": "integer", "exclusiveMinimum": -1},
        {"type": "string", "pattern": r"^[0-9]{1,6}(\.[0-9]+)?[smhd]$"},
    ],
    "title": 'seconds or a text such as "30s" or "5m"',
}
_PORT: Schema = {
    "type": "integer",
    "exclusiveMinimum": 0,
    "exclusiveMaximum": 65536,
    "title": "a port (1 to 65535)",
}
_MACHINES: Schema = {
    "type": "integer",
    "exclusiveMinimum": 0,
    "exclusiveMaximum": MAX_MACHINES + 1,
    "title": f"a number of machines (1 to {MAX_MACHINES})",
}


def _table(properties: Mapping[str, Schema], description: str, *required: str) -> Schema:
    return {
        "type": "object",
        "title": "a table",
        "additionalProperties": False,
        "required": list(required),
        "properties": properties,
        "description": description,
    }


HEALTH: Mapping[str, Schema] = {
    "path": {
        "type": "string",
        "pattern": r"^/[!-~]*$",
        "title": 'a path that begins with "/" and has no blanks ("/health")',
        "description": "What is asked of a machine (/)",
    },
    "status": {
        "type": "integer",
        "exclusiveMinimum": 99,
        "exclusiveMaximum": 600,
        "title": "an HTTP status (100 to 599)",
        "description": "What a healthy machine answers (200)",
    },
    "command": {
        "type": "array",
        "items": {"type": "string", "pattern": r"^[^\x00-\x1f\x7f]*$", "title": "text on one line"},
        "title": 'a list of words (["/usr/bin/check", "--quick"])',
        "description": "Instead of a path: run in the machine, 0 means healthy",
    },
    "interval": {**_SECONDS, "description": "How often it is looked (1s)"},
    "timeout": {**_SECONDS, "description": "How long an answer may take (2s)"},
    "within": {**_SECONDS, "description": "How long a new machine may take to become healthy (2m)"},
}

ROLLOUT: Mapping[str, Schema] = {
    "batch": {**_MACHINES, "description": "How many machines are started at once (4)"},
    "soak": {**_SECONDS_OR_NONE, "description": "How long all must be healthy before they get traffic (5s)"},
    "watch": {**_SECONDS_OR_NONE, "description": "How long each step is watched (10s)"},
    "steps": {
        "type": "array",
        "items": {
            "type": "integer",
            "exclusiveMinimum": 0,
            "exclusiveMaximum": 101,
            "title": "a percentage (1 to 100)",
        },
        "title": "a list of percentages ([10, 50, 100])",
        "description": "How the traffic moves: ascending, the last one 100 ([100])",
    },
    "window": {**_SECONDS_OR_NONE, "description": "How long the old side is kept for a roll-back (30m)"},
    "drain": {**_SECONDS_OR_NONE, "description": "How long one that goes may finish its requests (30s)"},
}

FIRST_BOOT: Mapping[str, Schema] = {
    "template": {
        "type": "string",
        "pattern": r"^(?![/~])(?!(.*/)?\.\.(/|$))[^\n]+$",
        "title": 'a file of the project ("templates/first-boot/web.yaml.j2")',
        "description": "A Jinja2 template of what cloud-init is told",
    },
    "secrets": {
        "type": "array",
        "items": {
            "type": "string",
            "pattern": r"^[A-Za-z_][A-Za-z0-9_]*$",
            "title": "a variable's name",
        },
        "title": "a list of variable names",
        "description": "Variables that the template has as secrets.NAME; shown nowhere",
    },
    "roles": {
        "type": "array",
        "items": {
            "type": "string",
            "pattern": r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
            "title": "a role (letters, digits, . _ -)",
        },
        "title": "a list of roles",
        "description": "machine.role by machine; the last one is that of all that follow",
    },
    "data": {"type": "object", "title": "a table", "description": "What the template has as data.KEY"},
}

ENVIRONMENT_LOCAL: Mapping[str, Schema] = {
    "listen": {
        "type": "string",
        "pattern": r"^([0-9A-Za-z.-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}$",
        "title": 'an address and a port ("127.0.0.1:8080")',
        "description": "Where users reach it on this host",
    },
    "memory": {**LOCAL_SETTINGS["memory"], "description": "Memory that one machine may use"},
    "pids": {**LOCAL_SETTINGS["pids"], "description": "Processes and threads that one machine may have"},
}

ENVIRONMENT_SCHEMA: Schema = {
    "type": "object",
    "additionalProperties": False,
    "required": ["recipe", "target"],
    "properties": {
        "description": {"type": "string", "title": "text", "description": "One line for lists"},
        "recipe": {
            "type": "string",
            "pattern": RECIPE_NAME.pattern.replace(r"\Z", "$"),
            "title": "the name of a recipe",
            "description": "Whose images are deployed",
        },
        "channel": {
            "type": "string",
            "pattern": CHANNEL_NAME.pattern.replace(r"\Z", "$"),
            "title": "the name of a channel",
            "description": "What is deployed if a command names nothing else (latest)",
        },
        "version": {
            "type": "integer",
            "exclusiveMinimum": 0,
            "exclusiveMaximum": 10**9,
            "title": "the number of a version",
            "description": "Instead of a channel",
        },
        "target": {"type": "string", "pattern": r"^(local|aws)$", "title": '"local" or "aws"'},
        "machines": {**_MACHINES, "description": "How many the first release has (1)"},
        "port": {**_PORT, "description": "What the service listens on in a machine (80)"},
        "health": _table(HEALTH, "When a machine may have traffic"),
        "rollout": _table(ROLLOUT, "How a release replaces the one before"),
        "first_boot": _table(FIRST_BOOT, "What differs from machine to machine", "template"),
        "audit": AUDIT,
        "local": _table(ENVIRONMENT_LOCAL, "Of the target local"),
        "aws": _table(ENVIRONMENT_AWS, "Of the target aws"),
    },
}


def environment_schema() -> dict[str, Any]:
    """JSON Schema of environments/NAME.toml."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "baker environment",
        **ENVIRONMENT_SCHEMA,
    }


# --- cloud-config -------------------------------------------------------------------------------------


def find_config_problems(text: str) -> Iterator[tuple[int | None, str]]:
    """Line and message of everything in a cloud-config that cloud-init would not take."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        yield (mark.line + 1 if mark else None), f"is not YAML: {error.problem or error.context}"
        return
    except yaml.YAMLError as error:
        yield None, f"is not YAML: {error}".splitlines()[0]
        return
    except (ValueError, OverflowError) as error:  # a date that is none
        yield None, f"is not YAML: {error}"
        return
    if not isinstance(values, dict):
        yield None, "a cloud-config must be a mapping (key: value)" + ("; it is empty" if not values else "")
        return
    seen = set()
    for key, value in root.value:
        name, line = key.value, key.start_mark.line + 1
        if name in seen:
            yield line, f'"{name}" is there twice: the later one would replace the first'
        elif name not in CLOUD_CONFIG_KEYS:
            yield line, f'unknown key "{name}" for cloud-init{nearest(str(name), CLOUD_CONFIG_KEYS)}'
        elif name == "write_files":
            yield from _find_file_problems(value, values[name])
        seen.add(name)


def _find_file_problems(node: yaml.Node, files: Any) -> Iterator[tuple[int, str]]:
    if not isinstance(files, list):
        yield node.start_mark.line + 1, '"write_files" must be a list'
        return
    for item, file in zip(node.value, files, strict=True):
        line = item.start_mark.line + 1
        if not isinstance(file, dict) or not isinstance(file.get("path"), str):
            yield line, 'an item of "write_files" must be a mapping with "path"'
            continue
        place = f'"write_files" of {file["path"]}'
        for key in file:
            if key not in CLOUD_CONFIG_FILE_KEYS:
                yield line, f'{place}: unknown key "{key}"{nearest(str(key), CLOUD_CONFIG_FILE_KEYS)}'
        if not file["path"].startswith("/"):
            yield line, f'{place}: the path must begin with "/"'
        if "content" in file and not isinstance(file["content"], str | bytes):
            yield line, f"{place}: the content must be text: quote it"
        if "permissions" in file and not _is_mode(file["permissions"]):
            yield line, f'{place}: permissions must be a text such as "0644"'
        if str(file.get("encoding", "text/plain")).lower().strip() not in CLOUD_CONFIG_ENCODINGS:
            yield line, f'{place}: unknown encoding "{file["encoding"]}"'
        elif decode_file(file) is None:
            yield line, f"{place}: the content is not what its encoding says"


def _is_mode(value: Any) -> bool:
    """A number is one already in YAML (0644 is octal there)."""
    if isinstance(value, str):
        return re.fullmatch(r"(0o)?[0-7]{1,5}", value) is not None
    return isinstance(value, int) and not isinstance(value, bool)


def decode_file(file: Mapping[str, Any]) -> bytes | None:
    """What an item of ``write_files`` writes; None where the content is not what its encoding says."""
    content = file.get("content", "")
    data = content if isinstance(content, bytes) else str(content).encode()
    encoding = str(file.get("encoding", "text/plain")).lower().strip()
    try:
        if encoding.endswith(("b64", "base64")):
            data = base64.b64decode(data)
        return gzip.decompress(data) if encoding.startswith("gz") else data
    except (ValueError, OSError, EOFError, zlib.error):
        return None

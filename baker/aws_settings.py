"""Settings of the target aws, in baker.toml's [aws] and in a recipe's [targets.aws]."""

from __future__ import annotations

from collections.abc import Mapping

from baker.toml_file import Schema

_REGION: Schema = {
    "type": "string",
    "pattern": r"^[a-z]{2,4}(-[a-z]+)+-[0-9]+$",
    "title": "a region (eu-west-1)",
}
_TEXT: Schema = {"type": "string", "pattern": r"^[^\n]+$", "title": "text"}
_FLAG: Schema = {"type": "boolean", "pattern": r"^(true|false)$", "title": "true or false"}
_DURATION: Schema = {
    "type": "string",
    "pattern": r"^[1-9][0-9]{0,4}[smh]$",
    "title": 'a length of time ("90s", "30m", "2h")',
}
_ADDRESS_RANGE: Schema = {
    "type": "string",
    "pattern": r"^[0-9a-fA-F.:]+/[0-9]{1,3}$",
    "title": 'an address range ("203.0.113.7/32")',
}
_TAGS: Schema = {
    "type": "object",
    "title": "a table of tags",
    "additionalProperties": {"type": "string", "title": "text"},
}
_INSTANCE_TYPE: Schema = {
    "type": "string",
    "pattern": r"^[a-z][a-z0-9-]*\.[a-z0-9-]+$",
    "title": 'an instance type ("t3.small")',
}
_COUNT: Schema = {"type": "integer", "exclusiveMinimum": 0, "title": "a positive whole number"}

_DISK: Mapping[str, Schema] = {
    "size": {**_COUNT, "description": "GiB"},
    "type": {
        "type": "string",
        "pattern": r"^(gp2|gp3|io1|io2|st1|sc1|standard)$",
        "title": "a type of volume (gp3)",
    },
    "iops": _COUNT,
    "throughput": {**_COUNT, "description": "MiB/s"},
    "encrypted": _FLAG,
    "kms_key": {**_TEXT, "description": "Key that encrypts it from the launch on"},
}


def _by_id_or_tags(kind: str, prefix: str) -> Schema:
    return {
        "anyOf": [
            {"type": "string", "pattern": rf"^{prefix}-[0-9a-f]+$"},
            {"type": "object", "additionalProperties": {"type": "string", "title": "text"}},
        ],
        "title": f'a {kind} ("{prefix}-0123abcd") or a table of tags that find one',
    }


AWS_SETTINGS: Mapping[str, Schema] = {
    "region": {**_REGION, "description": "Where build instances run (boto3's own: AWS_REGION, the profile)"},
    "regions": {
        "type": "array",
        "items": _REGION,
        "title": "a list of regions",
        "description": "Further regions that get a copy; an image is available in all of them or in none",
    },
    "kms_keys": {
        "type": "object",
        "title": "a table from region to key",
        "additionalProperties": _TEXT,
        "description": "Keys that encrypt the copies, by region",
    },
    "archs": {
        "type": "array",
        "items": {"type": "string", "pattern": r"^(x86_64|arm64)$", "title": '"x86_64" or "arm64"'},
        "title": "a list of architectures",
        "description": 'What every version is baked for (["x86_64"])',
    },
    "instance_type": {
        "anyOf": [
            {"type": "string", "pattern": _INSTANCE_TYPE["pattern"]},
            {"type": "array", "items": _INSTANCE_TYPE},
        ],
        "pattern": _INSTANCE_TYPE["pattern"],
        "title": "an instance type or a list of them",
        "description": "In order of preference: without capacity the next one is tried. Those of other "
        "architectures are passed over (t3.small, t3a.small; t4g.small)",
    },
    "spot": {**_FLAG, "description": "Ask for spot instances first, then on-demand (false)"},
    "vpc": {**_by_id_or_tags("VPC", "vpc"), "description": "Default: the account's default VPC"},
    "subnet": {
        **_by_id_or_tags("subnet", "subnet"),
        "description": "Of several that have the tags, the one with the most free addresses",
    },
    "zone": {
        "type": "string",
        "pattern": r"^[a-z]{2,4}(-[a-z0-9]+)+$",
        "title": 'an availability zone ("eu-west-1a")',
        "description": "Where instances run, and narrows subnet",
    },
    "security_groups": {
        "type": "array",
        "items": {"type": "string", "pattern": r"^sg-[0-9a-f]+$", "title": "a security group"},
        "title": "a list of security groups",
        "description": "Use these instead of a temporary one",
    },
    "open_to": {
        **_ADDRESS_RANGE,
        "description": "Who may reach build instances by SSH (this host's own address)",
    },
    "address": {
        "type": "string",
        "pattern": r"^(public|private)$",
        "title": '"public" or "private"',
        "description": "Which address of an instance is used (public)",
    },
    "ssh_user": {
        "type": "string",
        "pattern": r"^[a-z_][a-z0-9_-]*$",
        "title": "a user's name",
        "description": "The AMI's own user (known for the distributions' own AMIs; a child has its parent's)",
    },
    "ssh_port": {
        "type": "integer",
        "exclusiveMinimum": 0,
        "pattern": r"^[1-9][0-9]{0,4}$",
        "title": "a port",
        "description": "Where the AMI's sshd listens (22)",
    },
    "ssh_timeout": {**_DURATION, "description": "How long an instance may take until it answers by SSH (5m)"},
    "bastion": {
        "type": "object",
        "title": "a table",
        "additionalProperties": False,
        "required": ["host", "user", "host_key"],
        "properties": {
            "host": {"type": "string", "pattern": r"^[^\s]+$", "title": "a host"},
            "port": {"type": "integer", "exclusiveMinimum": 0, "title": "a port"},
            "user": {"type": "string", "pattern": r"^[^\s]+$", "title": "a user's name"},
            "key_file": {**_TEXT, "description": "Private key (the agent's keys)"},
            "host_key": {
                **_TEXT,
                "description": 'Its public host key ("ssh-ed25519 AAAA…"): never taken on trust',
            },
        },
        "description": "A host that instances are reached through: open_to is its address in the VPC",
    },
    "root_volume": {
        "type": "object",
        "title": "a table",
        "additionalProperties": False,
        "properties": _DISK,
        "description": "The root volume, where it is to differ from the source's",
    },
    "volumes": {
        "type": "array",
        "title": "a list of tables",
        "items": {
            "type": "object",
            "title": "a table",
            "additionalProperties": False,
            "required": ["device", "size"],
            "properties": {
                "device": {"type": "string", "pattern": r"^[a-z/0-9]+$", "title": 'a device ("/dev/sdf")'},
                **_DISK,
            },
        },
        "description": "Further volumes, which become part of the image",
    },
    "instance_profile": {**_TEXT, "description": "Name or ARN, for the build instance"},
    "user_data": {**_TEXT, "description": "A file of the project that cloud-init gets besides baker's own"},
    "deadline": {
        **_DURATION,
        "description": "An instance ends itself after that, whatever became of baker (4h)",
    },
    "image_timeout": {**_DURATION, "description": "How long an AMI or a copy may take (2h)"},
    "share_accounts": {
        "type": "array",
        "items": {"type": "string", "pattern": r"^[0-9]{12}$", "title": "an account (12 digits)"},
        "title": "a list of accounts",
        "description": "Who may launch the AMIs and use their snapshots",
    },
    "share_organizations": {
        "type": "array",
        "items": {
            "type": "string",
            "pattern": r"^arn:aws[a-z-]*:organizations::[0-9]{12}:organization/o-[a-z0-9]+$",
            "title": "an organization's ARN",
        },
        "title": "a list of ARNs",
        "description": "Every account of these organizations may launch the AMIs",
    },
    "share_ous": {
        "type": "array",
        "items": {
            "type": "string",
            "pattern": r"^arn:aws[a-z-]*:organizations::[0-9]{12}:ou/o-[a-z0-9]+/ou-[a-z0-9-]+$",
            "title": "an organizational unit's ARN",
        },
        "title": "a list of ARNs",
        "description": "Every account of these organizational units may launch the AMIs",
    },
    "public": {**_FLAG, "description": "Let everybody launch the AMIs (false)"},
    "deprecate_after": {
        "type": "string",
        "pattern": r"^[0-9]{1,5}[hdw]$",
        "title": 'an age ("90d")',
        "description": "AWS warns whoever launches an AMI that is older",
    },
    "tags": {**_TAGS, "description": "On everything that is made, for cost reports"},
    "parameters": {
        "type": "string",
        "pattern": r"^(/[A-Za-z0-9_.-]+)*$",
        "title": 'the beginning of a parameter\'s name ("/baker"), or ""',
        "description": "promote keeps the SSM parameter PREFIX/RECIPE/CHANNEL; empty: none (/baker)",
    },
}
"""For one recipe, or in [aws] for all."""

AWS_ACCESS: Mapping[str, Schema] = {
    "profile": {**_TEXT, "description": "A profile of the AWS configuration"},
    "role": {
        "type": "string",
        "pattern": r"^arn:aws[a-z-]*:iam::[0-9]{12}:role/.+$",
        "title": "a role's ARN",
        "description": "Assumed with the credentials that boto3 finds",
    },
    "external_id": {**_TEXT, "description": "What the role's trust policy asks for"},
    "request_timeout": {
        **_DURATION,
        "description": "How long one call may take before it is tried again (60s)",
    },
}
"""How AWS is reached: only in [aws] of baker.toml."""

_PORT: Schema = {
    "type": "integer",
    "exclusiveMinimum": 0,
    "exclusiveMaximum": 65536,
    "title": "a port (1 to 65535)",
}

ENVIRONMENT_AWS: Mapping[str, Schema] = {
    "region": {**_REGION, "description": "Where the machines are"},
    "vpc": {**AWS_SETTINGS["vpc"], "description": "Where the machines are"},
    "load_balancer": {
        "type": "string",
        "pattern": r"^([A-Za-z0-9][A-Za-z0-9-]{0,31}|arn:aws[a-z-]*:elasticloadbalancing:[^\s]+)$",
        "title": "the name or ARN of an application load balancer",
        "description": "What users reach; it and its listener must be there",
    },
    "listener_port": {**_PORT, "description": "The listener of the load balancer that gets the rule (80)"},
    "priority": {
        "type": "integer",
        "exclusiveMinimum": 0,
        "exclusiveMaximum": 50001,
        "title": "a priority (1 to 50000)",
        "description": "The rule's place among those of the listener (the first one that is free)",
    },
    "host": {
        "type": "string",
        "pattern": r"^[A-Za-z0-9.*?-]{1,128}$",
        "title": 'a host name ("www.example.com", "*.example.com")',
        "description": "The rule is for requests to this host",
    },
    "path": {
        "type": "string",
        "pattern": r"^/[!-~]{0,127}$",
        "title": 'a path ("/*")',
        "description": "The rule is for requests to this path (/*)",
    },
    "subnets": {
        "type": "array",
        "items": {"type": "string", "pattern": r"^subnet-[0-9a-f]+$", "title": "a subnet"},
        "title": "a list of subnets",
        "description": "Where machines are started (those of the VPC)",
    },
    "security_groups": {
        **AWS_SETTINGS["security_groups"],
        "description": "Of the machines: they let in the load balancer, and audits by SSH (the VPC's own)",
    },
    "instance_type": {**_INSTANCE_TYPE, "description": "Of the machines (t3.small, t4g.small)"},
    "instance_profile": {**_TEXT, "description": "Name or ARN, for the machines"},
    "key_name": {**_TEXT, "description": "Key pair that may log in to the machines"},
    **{
        key: AWS_SETTINGS[key]
        for key in ("address", "ssh_user", "ssh_port", "ssh_timeout", "bastion", "root_volume", "tags")
    },
    "key_file": {**_TEXT, "description": "Private key that audits and logs log in with (the agent's keys)"},
}
"""An environment's ``[aws]``. What it does not say, baker.toml's ``[aws]`` may."""

AWS_RESULT_SETTINGS = frozenset({"root_volume", "volumes", "user_data_digest"})
"""Those that can change what a bake comes to; of ``user_data`` it is the file's digest that counts."""

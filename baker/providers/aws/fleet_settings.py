"""What an environment's [aws] says, and whether what it names is there: VPC, load balancer, listener."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from baker.deploy.environment import Environment
from baker.errors import EnvironmentFileError
from baker.providers.aws.options import Options, read_options
from baker.providers.aws.refusals import Refused
from baker.providers.aws.session import AwsSession

LISTENER_PORT = 80


@dataclass(frozen=True, kw_only=True, slots=True)
class FleetSettings:
    """``options`` are those that build instances have too: types, security groups, SSH. ``file`` is what a
    message names."""

    file: str
    region: str
    load_balancer: str
    listener_port: int
    priority: int | None
    host: str | None
    path: str
    subnets: tuple[str, ...]
    key_name: str | None
    key_file: str | None
    options: Options

    def problem(self, key: str, text: str, hint: str | None = None) -> EnvironmentFileError:
        """An error that names the file and the key."""
        return EnvironmentFileError(f"{self.file}: {key} in [aws]: {text}", hint=hint)


def read_settings(
    settings: Mapping[str, Any], region: str, arch: str = "x86_64", file: str = "the environment"
) -> FleetSettings:
    """``region`` is used where the settings name none. Raises SettingsError."""
    return FleetSettings(
        file=file,
        region=str(settings.get("region") or region),
        load_balancer=settings.get("load_balancer", ""),
        listener_port=int(settings.get("listener_port", LISTENER_PORT)),
        priority=settings.get("priority"),
        host=settings.get("host"),
        path=settings.get("path", "/*"),
        subnets=tuple(settings.get("subnets", ())),
        key_name=settings.get("key_name"),
        key_file=settings.get("key_file"),
        # What belongs to build instances alone stays out: a bastion here needs no open_to.
        options=read_options({**settings, "open_to": settings.get("open_to") or "0.0.0.0/0"}, arch),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Site:
    """Where an environment is served: what is there at AWS and stays."""

    region: str
    vpc: str
    listener: str
    protocol: str
    port: int
    dns_name: str
    subnets: tuple[str, ...]

    @property
    def url(self) -> str:
        return describe_url(self.protocol, self.dns_name, self.port)


def describe_url(protocol: str, host: str, port: int) -> str:
    usual = {"HTTP": 80, "HTTPS": 443}.get(protocol) == port
    return f"{protocol.lower()}://{host}{'' if usual else f':{port}'}"


def check_environment(aws: AwsSession, environment: Environment, settings: FleetSettings) -> Site:
    """Raises EnvironmentFileError for what AWS cannot do, or what is not there; CloudError."""
    if environment.health.command is not None:
        raise EnvironmentFileError(
            f"{environment.file}: command in [health] is for the target local: at AWS the load balancer "
            "looks at machines from outside",
            hint='Have the service answer at a path, and say so: path = "/health".',
        )
    if not 200 <= environment.health.status <= 499:
        raise EnvironmentFileError(
            f"{environment.file}: status in [health]: a load balancer of AWS takes 200 to 499 for healthy"
        )
    if environment.first_boot is not None and len(set(environment.first_boot.roles)) > 1:
        raise EnvironmentFileError(
            f"{environment.file}: roles in [first_boot]: at AWS all machines of a side are told the same, "
            "since one that dies is replaced without us",
            hint="Name one role, or make an environment for each.",
        )
    site = find_site(aws, settings)
    _check_groups(aws, settings, site.vpc)
    _check_key(aws, settings)
    return site


def find_site(aws: AwsSession, settings: FleetSettings) -> Site:
    """Raises EnvironmentFileError naming the key that is wrong, CloudError."""
    balancer = _find_balancer(aws, settings)
    listener = _find_listener(aws, settings, balancer)
    vpc = _check_vpc(aws, settings, balancer["VpcId"])
    return Site(
        region=settings.region,
        vpc=vpc,
        listener=listener["ListenerArn"],
        protocol=listener["Protocol"],
        port=listener["Port"],
        dns_name=balancer["DNSName"],
        subnets=_find_subnets(aws, settings, vpc, balancer),
    )


def _find_balancer(aws: AwsSession, settings: FleetSettings) -> Mapping[str, Any]:
    name = settings.load_balancer
    if not name:
        raise EnvironmentFileError(
            f"{settings.file}: [aws] does not say which load balancer is used",
            hint='Name it: load_balancer = "NAME" (or its ARN); it and its listener must be there.',
        )
    named = {"LoadBalancerArns": [name]} if name.startswith("arn:") else {"Names": [name]}
    try:
        found = aws.call("elbv2", settings.region, "describe_load_balancers", **named)["LoadBalancers"]
    except Refused as error:
        if not error.is_one_of(("LoadBalancerNotFound", "ValidationError")):
            raise
        found = []
    if not found:
        raise settings.problem(
            "load_balancer",
            f"there is no load balancer {name} in {settings.region}",
            "List them: aws elbv2 describe-load-balancers. region in [aws] says where it is looked for.",
        )
    if found[0]["Type"] != "application":
        raise settings.problem(
            "load_balancer", f"{name} is a {found[0]['Type']} load balancer, and must be an application one"
        )
    return dict(found[0])


def _find_listener(
    aws: AwsSession, settings: FleetSettings, balancer: Mapping[str, Any]
) -> Mapping[str, Any]:
    arn = balancer["LoadBalancerArn"]
    listeners = list(
        aws.pages("elbv2", settings.region, "describe_listeners", "Listeners", LoadBalancerArn=arn)
    )
    for listener in listeners:
        if listener["Port"] == settings.listener_port:
            return listener
    ports = ", ".join(str(one["Port"]) for one in listeners) or "it has none"
    raise settings.problem(
        "listener_port",
        f"{balancer['LoadBalancerName']} does not listen on port {settings.listener_port} (but on: {ports})",
    )


def _check_vpc(aws: AwsSession, settings: FleetSettings, of_balancer: str) -> str:
    """The load balancer's, which must be the one that is named."""
    wanted = settings.options.vpc
    if wanted is None or wanted == of_balancer:
        return of_balancer
    if isinstance(wanted, str):
        asked: dict[str, Any] = {"VpcIds": [wanted]}
    else:
        asked = {"Filters": [{"Name": f"tag:{key}", "Values": [value]} for key, value in wanted.items()]}
    try:
        found = [one["VpcId"] for one in aws.ec2(settings.region, "describe_vpcs", **asked)["Vpcs"]]
    except Refused as error:
        if not error.says_absent:
            raise
        found = []
    told = wanted if isinstance(wanted, str) else ", ".join(f"{key}={wanted[key]}" for key in wanted)
    if not found:
        raise settings.problem("vpc", f"there is no VPC {told} in {settings.region}")
    if of_balancer not in found:
        raise settings.problem(
            "vpc", f"{told} is {found[0]}, and the load balancer {settings.load_balancer} is in {of_balancer}"
        )
    return of_balancer


def _find_subnets(
    aws: AwsSession, settings: FleetSettings, vpc: str, balancer: Mapping[str, Any]
) -> tuple[str, ...]:
    """Those that are named, else the load balancer's."""
    if not settings.subnets:
        return tuple(zone["SubnetId"] for zone in balancer["AvailabilityZones"])
    found = _list_there(aws, settings, "subnets", "describe_subnets", "SubnetIds", settings.subnets)
    for one in found:
        if one["VpcId"] != vpc:
            raise settings.problem("subnets", f"{one['SubnetId']} is in {one['VpcId']}, not in {vpc}")
    zones = {zone["ZoneName"] for zone in balancer["AvailabilityZones"]}
    for one in found:
        if one["AvailabilityZone"] not in zones:
            raise settings.problem(
                "subnets",
                f"{one['SubnetId']} is in {one['AvailabilityZone']}, where the load balancer has no subnet: "
                "it would send nothing there",
            )
    return settings.subnets


def _check_groups(aws: AwsSession, settings: FleetSettings, vpc: str) -> None:
    groups = settings.options.security_groups
    if not groups:
        return
    found = _list_there(aws, settings, "security_groups", "describe_security_groups", "GroupIds", groups)
    for one in found:
        if one["VpcId"] != vpc:
            raise settings.problem("security_groups", f"{one['GroupId']} is in {one['VpcId']}, not in {vpc}")


def _check_key(aws: AwsSession, settings: FleetSettings) -> None:
    if settings.key_name:
        _list_there(aws, settings, "key_name", "describe_key_pairs", "KeyNames", [settings.key_name])


def _list_there(
    aws: AwsSession, settings: FleetSettings, key: str, operation: str, parameter: str, names: Sequence[str]
) -> Sequence[Mapping[str, Any]]:
    """The descriptions of things that must all be there."""
    answer = {"describe_subnets": "Subnets", "describe_security_groups": "SecurityGroups"}
    try:
        found = aws.ec2(settings.region, operation, **{parameter: list(names)})
    except Refused as error:
        if not error.says_absent and not error.code.endswith("Malformed"):
            raise
        raise settings.problem(key, f"{error}") from error
    return list(found[answer.get(operation, "KeyPairs")])

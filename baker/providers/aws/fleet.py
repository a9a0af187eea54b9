"""Deployments on AWS: a group of instances for each side, behind one rule of a load balancer that is there.

What its parts are is in ``fleet_names`` (names and tags), ``fleet_templates``, ``fleet_targets``,
``fleet_groups`` and ``fleet_rule``. They are made in this order and removed in the opposite one, so that
whatever is left of a side, a version of its launch template is; and each is looked for before it is made.

AWS replaces machines that die or fail the health check, on the side that waits too. It does neither of what
``Traffic`` may wish for: a side without a share serves nobody, whatever becomes of the others.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from baker import identity
from baker.deploy.environment import Environment
from baker.deploy.first_boot import render
from baker.deploy.fleet import FleetMachine, Pause, Traffic
from baker.deploy.observation import Observation
from baker.deploy.side import MachineFacts, Side, tell_facts
from baker.errors import BadReference, BakerError, ConflictError, EnvironmentFileError, HostError
from baker.providers.aws.distribution import require_there
from baker.providers.aws.experience import Experience
from baker.providers.aws.fleet_groups import (
    delete_group,
    empty_group,
    ensure_group,
    find_group,
    grow_group,
)
from baker.providers.aws.fleet_inside import reached, read_log
from baker.providers.aws.fleet_machines import list_machines, replace_machines
from baker.providers.aws.fleet_names import ENVIRONMENT, Labels, target_group_number
from baker.providers.aws.fleet_rule import Rule, delete_rule, find_rule, join_rule, leave_rule, set_weights
from baker.providers.aws.fleet_settings import (
    FleetSettings,
    check_environment,
    describe_url,
    find_site,
    read_settings,
)
from baker.providers.aws.fleet_targets import delete_target_group, ensure_target_group, find_target_group
from baker.providers.aws.fleet_templates import (
    delete_template,
    delete_version,
    ensure_template,
    ensure_version,
    find_template,
    find_version,
    list_templates,
    list_versions,
    read_first_boot,
)
from baker.providers.aws.instances import describe_instance
from baker.providers.aws.naming import read_tags
from baker.providers.aws.session import AwsSession

LOG_LINES = 15
"""Of a machine that is not well, in a message."""


class AwsFleet:
    """See ``baker.deploy.fleet.Fleet``. ``settings`` is [aws] of baker.toml, ``project`` where ``key_file``
    is looked for. Makes no call before it is asked for something.

    Where an environment is, and how its machines are reached, is remembered in BAKER_HOME by ``start``; who
    has another BAKER_HOME finds it in the region of ``settings``.
    """

    target = "aws"

    def __init__(
        self, home: Path, settings: Mapping[str, Any], *, actor: str, project: Path | None = None
    ) -> None:
        self.aws = AwsSession(settings, Experience(home / "aws" / "waits.json"))
        self._home = home
        self._table = settings
        self._actor = actor
        self._project = project or Path()
        self._told: dict[str, Mapping[str, Any]] = {}

    # --- where it is --------------------------------------------------------------------------------

    def check(self, environment: Environment) -> None:
        if not self.aws.has_credentials:
            raise HostError(
                "there are no AWS credentials",
                hint="Give them as to the aws command: AWS_PROFILE, `aws configure`, or profile in [aws].",
            )
        settings = self._settings(environment)
        site = check_environment(self.aws, environment, settings)
        before = self._read_record(environment.name).get("region", settings.region)
        if before != settings.region and list_versions(self.aws, before, environment.name):
            raise settings.problem(
                "region", f"{environment.name} has machines in {before}", "Remove those releases first."
            )
        template = find_template(self.aws, settings.region, environment.name)
        if template is None or template.listener in ("", site.listener):
            return
        if list_versions(self.aws, settings.region, environment.name):
            raise settings.problem(
                "load_balancer",
                f"{environment.name} has machines behind another listener ({template.listener})",
                "Remove those releases first, or make another environment.",
            )

    def place(self, environment: Environment) -> str:
        settings = self._settings(environment)
        site = find_site(self.aws, settings)
        named = settings.host is not None and not set(settings.host) & set("*?")
        url = describe_url(site.protocol, settings.host or "", site.port) if named else site.url
        path = settings.path.partition("*")[0].partition("?")[0]
        return url if path in ("", "/") else url + path

    def _settings(self, environment: Environment) -> FleetSettings:
        self._told[environment.name] = environment.settings
        return read_settings(environment.settings, self.aws.region, file=environment.file)

    def _settings_of(self, environment: str) -> FleetSettings:
        """As they were told to this process, else when a side was started."""
        told = self._told.get(environment) or self._read_record(environment).get("settings") or self._table
        return read_settings(told, self.aws.region, file=f"environments/{environment}.toml")

    def _region(self, environment: str) -> str:
        return self._settings_of(environment).region

    @property
    def _records(self) -> Path:
        return self._home / "aws" / "environments"

    def _read_record(self, environment: str) -> Mapping[str, Any]:
        try:
            found: Mapping[str, Any] = json.loads((self._records / f"{environment}.json").read_text())
        except (OSError, ValueError):
            return {}  # what it says is found at AWS too, in the region that is configured
        return found

    def _write_record(self, side: Side, region: str) -> None:
        """Before anything is made."""
        self._told[side.environment] = side.settings
        releases = {**self._read_record(side.environment).get("releases", {}), str(side.number): side.release}
        record = {"region": region, "settings": dict(side.settings), "releases": releases}
        self._records.mkdir(parents=True, exist_ok=True, mode=0o700)
        new = self._records / f".{side.environment}.{os.getpid()}"
        new.write_text(json.dumps(record))
        new.replace(self._records / f"{side.environment}.json")

    def _labels(self, environment: str, settings: FleetSettings, side: Side | None = None) -> Labels:
        return Labels(
            environment=environment,
            store=identity.store_name(self._home),
            actor=self._actor,
            side=side,
            extra=settings.options.tags,
        )

    # --- sides --------------------------------------------------------------------------------------

    def list_facts(self, side: Side, size: int) -> Sequence[MachineFacts]:
        """One for all: they are told the same."""
        return [self._facts(side)] if size else []

    def _facts(self, side: Side) -> MachineFacts:
        roles = side.first_boot.roles if side.first_boot else ()
        return tell_facts(self.target, side.environment, side.name, roles)

    def start(self, side: Side, size: int, pause: Pause) -> None:
        file = f"environments/{side.environment}.toml"
        settings = read_settings(side.settings, self.aws.region, side.artifact.arch, file)
        region = settings.region
        if side.artifact.store != region:
            raise EnvironmentFileError(
                f"{file}: region in [aws] is {region}, and {side.image} has its AMI in {side.artifact.store}",
                hint=f'Add "{region}" to regions in [aws] of baker.toml; baker image publish {side.image}',
            )
        self._write_record(side, region)
        site = find_site(self.aws, settings)
        text = render(side.first_boot, side, self._facts(side)) if side.first_boot else None
        environment, labels = side.environment, self._labels(side.environment, settings, side)
        shared = self._labels(environment, settings)
        template = ensure_template(self.aws, region, environment, site.listener, shared)
        version = find_version(self.aws, region, environment, side.number)
        if version is None:
            require_there(self.aws, side.artifact)
        version = ensure_version(self.aws, template, version, side, settings, labels, text)
        target_group = ensure_target_group(self.aws, side, site, labels)
        join_rule(self.aws, environment, target_group, site.listener, settings, shared)
        ensure_group(
            self.aws,
            region,
            side,
            size,
            {"LaunchTemplateId": template.id, "Version": str(version.version)},
            target_group,
            site.subnets,
            labels,
        )
        grow_group(self.aws, region, environment, side.number, size, side.batch, pause)

    def size(self, environment: str, number: int) -> int:
        group = find_group(self.aws, self._region(environment), environment, number)
        return 0 if group is None or group.deleting else group.meant

    def machines(self, environment: str) -> Sequence[FleetMachine]:
        return list_machines(self.aws, self._region(environment), environment)

    def replace(self, environment: str, names: Collection[str], pause: Pause) -> Sequence[str]:
        region = self._region(environment)

        def read_end_of_log(name: str) -> str:
            try:
                return self.log(environment, name, LOG_LINES)
            except BakerError as error:
                return f"it cannot be read: {error}"

        return replace_machines(self.aws, region, environment, names, read_end_of_log, pause)

    def remove(self, environment: str, number: int, pause: Pause) -> None:
        region = self._region(environment)
        version = find_version(self.aws, region, environment, number)
        expected = self._read_record(environment).get("releases", {}).get(str(number))
        if version is not None and expected not in (None, version.release):
            return  # another catalog's: ours was refused the number
        rule = self._rule(environment, region)
        arn = find_target_group(self.aws, region, environment, number)
        if rule is not None and arn is not None and not rule.asleep and rule.weights.get(arn):
            raise ConflictError(
                f"release {number} of {environment} has {rule.weights[arn]} % of the traffic",
                hint="Move it first: baker env rollback, or deploy another image.",
            )
        if group := find_group(self.aws, region, environment, number):
            empty_group(self.aws, group, pause)
            delete_group(self.aws, group, pause)
        if arn is not None:
            if (rule := self._rule(environment, region)) is not None:
                leave_rule(self.aws, region, rule, arn)
            delete_target_group(self.aws, region, arn, pause)
        if version is not None:
            delete_version(self.aws, region, version)

    def sides(self) -> Mapping[str, Collection[int]]:
        store = identity.store_name(self._home)
        known = {self._read_record(path.stem).get("region") for path in self._records.glob("*.json")}
        found: dict[str, set[int]] = {}
        for region in sorted({self.aws.region, *(region for region in known if region)}):
            for environment in list_templates(self.aws, region, store):
                versions = list_versions(self.aws, region, environment)
                found.setdefault(environment, set()).update(one.number for one in versions)
        return found

    def dismantle(self, environment: str) -> None:
        region = self._region(environment)
        if left := list_versions(self.aws, region, environment):
            raise ConflictError(f"{environment} still has release {left[0].number} in {region}")
        template = find_template(self.aws, region, environment)
        if template is not None:
            if rule := find_rule(self.aws, region, template.listener, environment):
                delete_rule(self.aws, region, rule)
            delete_template(self.aws, region, template)
        (self._records / f"{environment}.json").unlink(missing_ok=True)

    # --- traffic ------------------------------------------------------------------------------------

    def shift(self, environment: Environment, traffic: Traffic) -> None:
        settings = self._settings(environment)
        site = find_site(self.aws, settings)
        rule = find_rule(self.aws, settings.region, site.listener, environment.name)
        arns = _number_targets(environment.name, rule)
        wanted = {number: weight for number, weight in traffic.weights.items() if weight > 0}
        for number in wanted:
            if number not in arns:
                arn = find_target_group(self.aws, settings.region, environment.name, number)
                if arn is None:
                    raise ConflictError(f"release {number} of {environment.name} has no machines at AWS")
                arns[number] = arn
        weights = {arn: wanted.get(number, 0) for number, arn in arns.items()}
        labels = self._labels(environment.name, settings)
        set_weights(self.aws, environment.name, weights, rule, site.listener, settings, labels)

    def traffic(self, environment: str) -> Traffic:
        rule = self._rule(environment, self._region(environment))
        if rule is None or rule.asleep:
            return Traffic(weights={})
        arns = _number_targets(environment, rule)
        return Traffic(
            weights={number: rule.weights[arn] for number, arn in arns.items() if rule.weights[arn]}
        )

    def _rule(self, environment: str, region: str) -> Rule | None:
        template = find_template(self.aws, region, environment)
        return find_rule(self.aws, region, template.listener, environment) if template else None

    # --- looking into machines ----------------------------------------------------------------------

    def log(self, environment: str, name: str, lines: int | None = None) -> str:
        """The journal by SSH where ``key_file`` is configured, else what EC2 has of the console, also of one
        that ended within the last hour."""
        described = self._require_machine(environment, name)
        return read_log(self.aws, described, self._settings_of(environment), self._project, lines)

    def user_data(self, environment: str, name: str) -> str | None:
        """As its launch template has it, before cloud-init filled in what differs between machines."""
        described = self._require_machine(environment, name)
        number = read_tags(described).get("baker:number", "")
        found = list_versions(self.aws, self._region(environment), environment)
        return next((read_first_boot(one) for one in found if str(one.number) == number), None)

    def observe(self, environment: str, name: str, *, full: bool = False) -> Observation:
        """Needs ``key_name`` and ``key_file``; MachineError says so where they are not set."""
        from baker.providers.aws.inside.observing import observe_instance

        described = self._require_machine(environment, name)
        with reached(self.aws, described, self._settings_of(environment), self._project) as machine:
            return observe_instance(machine, full=full, launched=described["LaunchTime"])

    def _require_machine(self, environment: str, name: str) -> Mapping[str, Any]:
        region = self._region(environment)
        described = describe_instance(self.aws, region, name) if name.startswith("i-") else None
        if described is None or read_tags(described).get(ENVIRONMENT) != environment:
            raise BadReference(
                f"{environment} has no machine {name} in {region}",
                hint=f"List them: baker env show {environment}",
            )
        return described


def _number_targets(environment: str, rule: Rule | None) -> dict[int, str]:
    """The rule's target groups that are the environment's, by release."""
    numbered = {arn: target_group_number(environment, arn) for arn in rule.weights} if rule else {}
    return {number: arn for arn, number in numbered.items() if number is not None}

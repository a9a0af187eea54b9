"""The listener's rule of an environment: who gets which share of its requests.

There is one from the first side's start on, since the load balancer looks only at target groups that a rule
names. As long as nobody is to have traffic the rule is *asleep*: its condition is a path that nobody asks
for.
What others change of it is put right by the next ``set_weights``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from baker.errors import CloudError, EnvironmentFileError
from baker.providers.aws.fleet_names import ENVIRONMENT, Labels
from baker.providers.aws.fleet_settings import FleetSettings
from baker.providers.aws.naming import read_tags
from baker.providers.aws.refusals import Refused
from baker.providers.aws.session import AwsSession
from baker.providers.aws.waiting import look_for

MAX_DESCRIBED = 20
"""So many things' tags are told at once."""

PRIORITIES = range(1, 50001)
ATTEMPTS = 5
"""For a free priority that somebody else is quicker to take."""

ASLEEP = "/.baker-asleep/"


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """``weights`` are by target group. ``conditions`` are pairs of field and value."""

    arn: str
    priority: int
    conditions: frozenset[tuple[str, str]]
    weights: Mapping[str, int]
    sticky: bool = False

    @property
    def asleep(self) -> bool:
        return any(value.startswith(ASLEEP) for _, value in self.conditions)


def find_rule(aws: AwsSession, region: str, listener: str, environment: str) -> Rule | None:
    """By tags, among the listener's rules. Raises CloudError."""
    rules = {rule["RuleArn"]: rule for rule in _list_rules(aws, region, listener)}
    arns = list(rules)
    for start in range(0, len(arns), MAX_DESCRIBED):
        told = aws.call("elbv2", region, "describe_tags", ResourceArns=arns[start : start + MAX_DESCRIBED])[
            "TagDescriptions"
        ]
        for one in told:
            if read_tags(one).get(ENVIRONMENT) == environment:
                return _read_rule(rules[one["ResourceArn"]])
    return None


def _list_rules(aws: AwsSession, region: str, listener: str) -> list[Mapping[str, Any]]:
    """But for the default one."""
    if not listener:
        return []
    try:
        found = list(aws.pages("elbv2", region, "describe_rules", "Rules", ListenerArn=listener))
    except Refused as error:
        if error.code != "ListenerNotFound":
            raise
        return []
    return [rule for rule in found if not rule["IsDefault"]]


def _read_rule(described: Mapping[str, Any]) -> Rule:
    forward: Mapping[str, Any] = next(
        (one.get("ForwardConfig", {}) for one in described["Actions"] if one["Type"] == "forward"), {}
    )
    return Rule(
        arn=described["RuleArn"],
        priority=int(described["Priority"]),
        conditions=frozenset(_read_conditions(described["Conditions"])),
        weights={one["TargetGroupArn"]: one.get("Weight", 1) for one in forward.get("TargetGroups", ())},
        sticky=bool(forward.get("TargetGroupStickinessConfig", {}).get("Enabled")),
    )


def _read_conditions(described: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    found = []
    for one in described:
        config = one.get("PathPatternConfig") or one.get("HostHeaderConfig") or {}
        found += [(one["Field"], value) for value in config.get("Values") or one.get("Values") or ("",)]
    return found


def describe_conditions(
    environment: str, settings: FleetSettings, *, asleep: bool
) -> frozenset[tuple[str, str]]:
    if asleep:
        return frozenset([("path-pattern", f"{ASLEEP}{environment}")])
    host = [("host-header", settings.host)] if settings.host else []
    return frozenset([("path-pattern", settings.path), *host])


def _write_conditions(conditions: frozenset[tuple[str, str]]) -> list[dict[str, Any]]:
    keys = {"path-pattern": "PathPatternConfig", "host-header": "HostHeaderConfig"}
    return [{"Field": field, keys[field]: {"Values": [value]}} for field, value in sorted(conditions)]


def _write_actions(weights: Mapping[str, int]) -> list[dict[str, Any]]:
    groups = [{"TargetGroupArn": arn, "Weight": weight} for arn, weight in sorted(weights.items())]
    forward = {"TargetGroups": groups, "TargetGroupStickinessConfig": {"Enabled": False}}
    return [{"Type": "forward", "ForwardConfig": forward}]


# --- changing it ------------------------------------------------------------------------------------------


def join_rule(
    aws: AwsSession, environment: str, arn: str, listener: str, settings: FleetSettings, labels: Labels
) -> None:
    """Have the load balancer look at a target group, and send it nothing. Raises EnvironmentFileError."""
    rule = find_rule(aws, settings.region, listener, environment)
    if rule is None:
        _make_rule(aws, environment, {arn: 1}, listener, settings, labels, asleep=True)
    elif arn not in rule.weights:
        weights = {**rule.weights, arn: 1 if rule.asleep else 0}
        aws.call("elbv2", settings.region, "modify_rule", RuleArn=rule.arn, Actions=_write_actions(weights))


def leave_rule(aws: AwsSession, region: str, rule: Rule, arn: str) -> None:
    """Have a rule not name a target group any more; one that names no other is deleted."""
    weights = {other: weight for other, weight in rule.weights.items() if other != arn}
    if not weights:
        delete_rule(aws, region, rule)
    elif arn in rule.weights:
        aws.call("elbv2", region, "modify_rule", RuleArn=rule.arn, Actions=_write_actions(weights))


def set_weights(
    aws: AwsSession,
    environment: str,
    weights: Mapping[str, int],
    rule: Rule | None,
    listener: str,
    settings: FleetSettings,
    labels: Labels,
) -> None:
    """Give each target group its share; ``rule`` is as it is now. One call changes conditions and shares.
    Without any share the rule sleeps.

    Raises EnvironmentFileError for a priority that is another rule's, CloudError.
    """
    asleep = not any(weights.values())
    shares = dict.fromkeys(weights, 1) if asleep else dict(weights)
    if rule is None:
        if shares:
            _make_rule(aws, environment, shares, listener, settings, labels, asleep=asleep)
        return
    conditions = describe_conditions(environment, settings, asleep=asleep)
    if not shares:
        delete_rule(aws, settings.region, rule)
    elif rule.weights != shares or rule.conditions != conditions or rule.sticky:
        aws.call(
            "elbv2",
            settings.region,
            "modify_rule",
            RuleArn=rule.arn,
            Conditions=_write_conditions(conditions),
            Actions=_write_actions(shares),
        )
    if settings.priority is not None and settings.priority != rule.priority:
        _move_rule(aws, rule, settings)


def _make_rule(
    aws: AwsSession,
    environment: str,
    weights: Mapping[str, int],
    listener: str,
    settings: FleetSettings,
    labels: Labels,
    *,
    asleep: bool,
) -> None:
    region = settings.region
    conditions = describe_conditions(environment, settings, asleep=asleep)
    for _ in range(ATTEMPTS):
        priority = settings.priority or _find_priority(aws, region, listener)
        try:
            aws.call(
                "elbv2",
                region,
                "create_rule",
                ListenerArn=listener,
                Priority=priority,
                Conditions=_write_conditions(conditions),
                Actions=_write_actions(weights),
                Tags=labels.tags(),
            )
        except Refused as error:
            if error.code != "PriorityInUse" and not error.outcome_unknown:
                raise
            # Perhaps by our own rule, whose answer was lost.
            if look_for(lambda: find_rule(aws, region, listener, environment)) is not None:
                return
            if error.code != "PriorityInUse":
                raise
            if settings.priority is not None:
                raise _explain_priority(settings) from error
        else:
            return
    raise CloudError(f"no priority of the listener {listener} in {region} stayed free for long enough")


def _find_priority(aws: AwsSession, region: str, listener: str) -> int:
    used = {int(rule["Priority"]) for rule in _list_rules(aws, region, listener)}
    return next(number for number in PRIORITIES if number not in used)


def _move_rule(aws: AwsSession, rule: Rule, settings: FleetSettings) -> None:
    wanted = [{"RuleArn": rule.arn, "Priority": settings.priority}]
    try:
        aws.call("elbv2", settings.region, "set_rule_priorities", RulePriorities=wanted)
    except Refused as error:
        if error.code != "PriorityInUse":
            raise
        raise _explain_priority(settings) from error


def _explain_priority(settings: FleetSettings) -> EnvironmentFileError:
    return settings.problem(
        "priority",
        f"{settings.priority} is another rule's of the listener on port {settings.listener_port}",
        "Name another one, or leave it out: then the first free one is taken.",
    )


def delete_rule(aws: AwsSession, region: str, rule: Rule) -> None:
    """Idempotent."""
    try:
        aws.call("elbv2", region, "delete_rule", RuleArn=rule.arn)
    except Refused as error:
        if error.code != "RuleNotFound":
            raise

"""Launch templates, where moto's differ: tokens, and versions that are deleted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from moto.ec2.models.launch_templates import LaunchTemplate, LaunchTemplateVersion

from tests.lab.wire import AwsError, Request, Response, write_result

Forward = Callable[..., Response]
UNSIGNED = frozenset({"ClientToken", "Action", "Version"})


class Templates:
    def __init__(self) -> None:
        self._tokens: dict[tuple[str, str, str, str], tuple[dict[str, str], Response]] = {}

    def create(self, request: Request, forward: Forward) -> Response:
        """A template or a version: once for each token."""
        asked = {key: value for key, value in request.form.items() if key not in UNSIGNED}
        key = request.account, request.region, request.action, request.params.get("ClientToken", "")
        if key in self._tokens:
            before, response = self._tokens[key]
            if before != asked:
                raise AwsError(
                    "IdempotentParameterMismatch", "Client token already used before with other parameters."
                )
            return response
        response = forward()
        if not response.error and key[3]:
            self._tokens[key] = asked, response
        return response

    def delete_versions(self, request: Request, _forward: Forward) -> Response:
        template = require_template(request)
        done, refused = [], []
        for number in map(int, request.params["Versions"]):
            version = next((one for one in list_versions(template) if one.number == number), None)
            told = {
                "LaunchTemplateId": template.id,
                "LaunchTemplateName": template.name,
                "VersionNumber": number,
            }
            if version is None:
                code = "launchTemplateVersionDoesNotExist"
                refused.append(
                    {**told, "ResponseError": {"Code": code, "Message": "There is no such version"}}
                )
            elif template.is_default(version):
                code = "unexpectedError"
                refused.append({**told, "ResponseError": {"Code": code, "Message": "It is the default one"}})
            else:
                version.lab_deleted = True
                done.append(told)
        return write_result(
            request,
            {
                "SuccessfullyDeletedLaunchTemplateVersions": done,
                "UnsuccessfullyDeletedLaunchTemplateVersions": refused,
            },
        )

    def describe_versions(self, request: Request, forward: Forward) -> Response:
        """Of one template: without those that were deleted. moto answers for all templates."""
        if not request.params.keys() & {"LaunchTemplateId", "LaunchTemplateName"}:
            return forward()
        template = require_template(request)
        versions = list_versions(template)
        asked = request.params.get("Versions")
        if asked:
            newest = max(version.number for version in versions)
            special = {"$Latest": newest, "$Default": template.default_version_number}
            numbers = {int(special.get(one, one)) for one in asked}
            if missing := numbers - {version.number for version in versions}:
                raise AwsError(
                    "InvalidLaunchTemplateId.VersionNotFound",
                    f"Could not find the specified version {min(missing)} for the launch template",
                )
            versions = [version for version in versions if version.number in numbers]
        return write_result(
            request, {"LaunchTemplateVersions": [describe_version(template, one) for one in versions]}
        )


def require_template(request: Request) -> LaunchTemplate:
    backend, name = request.backend, request.params.get("LaunchTemplateName")
    wanted = backend.launch_template_name_to_ids.get(name) if name else request.params["LaunchTemplateId"]
    if wanted not in backend.launch_templates:
        kind = "Name" if name else "Id"
        raise AwsError(
            f"InvalidLaunchTemplate{kind}.NotFound{'Exception' if name else ''}",
            f"At least one of the launch templates specified in the request does not exist: {name or wanted}",
        )
    template: LaunchTemplate = backend.launch_templates[wanted]
    return template


def list_versions(template: LaunchTemplate) -> list[LaunchTemplateVersion]:
    return [version for version in template.versions if not hasattr(version, "lab_deleted")]


def describe_version(template: LaunchTemplate, version: LaunchTemplateVersion) -> dict[str, Any]:
    return {
        "LaunchTemplateId": template.id,
        "LaunchTemplateName": template.name,
        "VersionNumber": version.number,
        "VersionDescription": version.description,
        "CreateTime": version.create_time,
        "CreatedBy": "arn:aws:iam::123456789012:root",
        "DefaultVersion": template.is_default(version),
        "LaunchTemplateData": version.data,
    }

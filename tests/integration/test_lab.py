"""The lab keeps what it promises: calls, faults, states, SSH. What rests on it is only as good as it is."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import paramiko
import pytest
from botocore.exceptions import ClientError, ConnectionClosedError, ReadTimeoutError
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.lab import Fault, ImageFault, InstanceFault, Lab, Latency, running_lab
from tests.lab import lab as clients
from tests.lab.bodies import Bodies

LAUNCH = {"MinCount": 1, "MaxCount": 1, "InstanceType": "t3.small"}


@pytest.fixture
def lab() -> Iterator[Lab]:
    with running_lab(latency=Latency(launch=0, stop=0, terminate=0, image=0, copy=0)) as lab:
        yield lab


def make_client(lab: Lab, service: str = "ec2", *, attempts: int = 1, **settings: Any) -> Any:
    """As baker's own: recorded, and struck by faults."""
    retries = {"total_max_attempts": attempts, "mode": "standard"}
    return clients.make_client(lab.endpoint, service, lab.region, retries=retries, **settings)


def make_key() -> str:
    key = Ed25519PrivateKey.generate()
    return key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()


def load_key(text: str) -> paramiko.PKey:
    return paramiko.Ed25519Key.from_private_key(io.StringIO(text))


def make_user_data(host_key: str, login_key: str) -> str:
    indented = "".join(f"    {line}\n" for line in host_key.splitlines())
    login = load_key(login_key)
    return (
        "#cloud-config\nssh_keys:\n  ed25519_private: |\n"
        f"{indented}ssh_authorized_keys:\n  - {login.get_name()} {login.get_base64()}\n"
    )


def launch(lab: Lab, **parameters: Any) -> str:
    asked = {**LAUNCH, "ImageId": lab.source_ami, **parameters}
    return lab.client("ec2").run_instances(**asked)["Instances"][0]["InstanceId"]


def describe(lab: Lab, instance: str) -> dict[str, Any]:
    found = lab.client("ec2").describe_instances(InstanceIds=[instance])
    return found["Reservations"][0]["Instances"][0]


def fails(code: str, call: Callable[..., Any], **parameters: Any) -> None:
    with pytest.raises(ClientError) as raised:
        call(**parameters)
    assert raised.value.response["Error"]["Code"] == code


def connect(
    lab: Lab, address: str, login_key: str, way: paramiko.Channel | None = None
) -> paramiko.SSHClient:
    client = paramiko.SSHClient()
    client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
    client.connect(
        address,
        lab.ssh_port,
        lab.ssh_user,
        pkey=load_key(login_key),
        allow_agent=False,
        look_for_keys=False,
        timeout=10.0,
        sock=way,
    )
    return client


# --- calls and faults -----------------------------------------------------------------------------


def test_calls_are_recorded_with_the_permissions_that_they_take(lab: Lab) -> None:
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "a", "Value": "b"}]}]
    profile = lab.client("iam").create_instance_profile(InstanceProfileName="p")["InstanceProfile"]["Arn"]
    encrypted = {"VolumeSize": 8, "Encrypted": True, "KmsKeyId": "alias/baker"}
    make_client(lab).run_instances(
        **LAUNCH,
        ImageId=lab.source_ami,
        TagSpecifications=tags,
        IamInstanceProfile={"Arn": profile},
        BlockDeviceMappings=[{"DeviceName": "/dev/xvda", "Ebs": encrypted}],
    )
    make_client(lab, "sts").get_caller_identity()

    assert [(call.service, call.action, call.region) for call in lab.calls] == [
        ("ec2", "RunInstances", lab.region),
        ("sts", "GetCallerIdentity", lab.region),
    ]
    needed = lab.permissions()
    assert {each for each in needed if not each.startswith("kms:")} == {
        "ec2:RunInstances",
        "ec2:CreateTags",
        "iam:PassRole",
    }
    assert needed >= {"kms:CreateGrant", "kms:GenerateDataKeyWithoutPlaintext"}


def test_a_throttled_call_is_told_so_in_its_own_protocol_and_not_done(lab: Lab) -> None:
    lab.faults.add(Fault(action="CreateSecurityGroup", kind="throttle"))
    lab.faults.add(Fault(action="GetParameter", kind="throttle"))

    group = {"GroupName": "x", "Description": "x"}
    fails("RequestLimitExceeded", make_client(lab).create_security_group, **group)
    fails("ThrottlingException", make_client(lab, "ssm").get_parameter, Name="/x")
    assert lab.holdings() == []
    make_client(lab).create_security_group(**group)
    assert [call.fault for call in lab.calls] == ["throttle", "throttle", ""]


def test_a_lost_response_comes_from_a_call_that_was_done(lab: Lab) -> None:
    lab.faults.add(Fault(action="CreateSecurityGroup", kind="lose"))

    with pytest.raises(ConnectionClosedError):
        make_client(lab).create_security_group(GroupName="x", Description="x")
    assert len(lab.holdings()) == 1


def test_whoever_is_to_die_is_killed_when_the_call_is_done(lab: Lab) -> None:
    held: list[str] = []
    lab.faults.add(
        Fault(action="CreateSecurityGroup", kind="kill", callback=lambda: held.extend(lab.holdings()))
    )

    with pytest.raises(ConnectionClosedError):
        make_client(lab).create_security_group(GroupName="x", Description="x")
    assert len(held) == 1


def test_a_call_that_times_out_is_not_done(lab: Lab) -> None:
    lab.faults.add(Fault(action="CreateSecurityGroup", kind="timeout"))

    with pytest.raises(ReadTimeoutError):
        make_client(lab, read_timeout=0.2).create_security_group(GroupName="x", Description="x")
    assert lab.holdings() == []


def test_a_chosen_error_strikes_the_chosen_call(lab: Lab) -> None:
    lab.faults.add(Fault(action="DescribeVpcs", kind="refuse", nth=2, code="UnauthorizedOperation"))

    make_client(lab).describe_vpcs()
    fails("UnauthorizedOperation", make_client(lab).describe_vpcs)
    make_client(lab).describe_vpcs()


def test_a_share_of_all_calls_is_struck_and_clients_get_through(lab: Lab) -> None:
    lab.faults.share(0.3, seed=3)
    client = make_client(lab, attempts=10)

    for _ in range(10):
        client.describe_vpcs()
    assert {call.fault for call in lab.calls} == {"", "throttle", "error"}


# --- instances ------------------------------------------------------------------------------------


def test_the_same_client_token_gives_the_same_instance_and_refuses_another_request(lab: Lab) -> None:
    first = launch(lab, ClientToken="token")

    assert launch(lab, ClientToken="token") == first
    request = {**LAUNCH, "ImageId": lab.source_ami, "ClientToken": "token", "InstanceType": "t3.micro"}
    fails("IdempotentParameterMismatch", lab.client("ec2").run_instances, **request)


def test_states_take_their_time() -> None:
    now = [0.0]
    latency = Latency(launch=15, stop=20, terminate=5, image=60)
    with running_lab(latency=latency, clock=lambda: now[0]) as lab:
        ec2 = lab.client("ec2")
        instance = launch(lab)
        assert describe(lab, instance)["State"]["Name"] == "pending"
        assert "PublicIpAddress" not in describe(lab, instance)
        fails("IncorrectInstanceState", ec2.stop_instances, InstanceIds=[instance])
        now[0] = 15.0
        assert describe(lab, instance)["State"]["Name"] == "running"
        ec2.stop_instances(InstanceIds=[instance])
        assert describe(lab, instance)["State"]["Name"] == "stopping"
        now[0] = 35.0
        assert describe(lab, instance)["State"]["Name"] == "stopped"
        image = ec2.create_image(InstanceId=instance, Name="slow")["ImageId"]
        fails("InvalidAMIID.Unavailable", ec2.run_instances, **LAUNCH, ImageId=image)
        now[0] = 95.0
        assert ec2.describe_images(ImageIds=[image])["Images"][0]["State"] == "available"
        ec2.terminate_instances(InstanceIds=[instance])
        assert describe(lab, instance)["State"]["Name"] == "shutting-down"
        now[0] = 100.0
        assert describe(lab, instance)["State"]["Name"] == "terminated"


def test_an_instance_ends_or_stops_as_it_was_told_to_when_it_switches_itself_off(lab: Lab) -> None:
    ending = launch(lab, InstanceInitiatedShutdownBehavior="terminate")
    stopping = launch(lab, InstanceInitiatedShutdownBehavior="stop")
    describe(lab, ending)
    lab.power_off(ending)
    lab.power_off(stopping)

    assert describe(lab, ending)["State"]["Name"] == "terminated"
    assert describe(lab, ending)["StateReason"]["Code"] == "Client.InstanceInitiatedShutdown"
    assert describe(lab, stopping)["State"]["Name"] == "stopped"
    assert [line.split()[1] for line in lab.holdings()] == ["instance", "volume"]


def test_a_spot_instance_is_taken_back(lab: Lab) -> None:
    lab.faults.add(InstanceFault(kind="spot-interruption"))
    instance = launch(lab, InstanceMarketOptions={"MarketType": "spot"})
    describe(lab, instance)

    assert describe(lab, instance)["State"]["Name"] in ("shutting-down", "terminated")
    assert describe(lab, instance)["StateReason"]["Code"] == "Server.SpotInstanceTermination"


def test_a_launch_that_aws_would_refuse_is_refused(lab: Lab) -> None:
    run = lab.client("ec2").run_instances
    fails("InvalidAMIID.NotFound", run, **LAUNCH, ImageId="ami-00000000000000000")
    fails("InvalidAMIID.Unavailable", run, **LAUNCH, ImageId=lab.source("disabled"))
    fails("InvalidParameterValue", run, **LAUNCH, ImageId=lab.source("arm64"))
    assert lab.holdings() == []


def test_volumes_are_the_images_but_for_what_the_launch_says(lab: Lab) -> None:
    root = {"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 20, "Throughput": 250}}
    more = {"DeviceName": "/dev/sdf", "Ebs": {"VolumeSize": 3, "VolumeType": "gp3"}}
    instance = launch(lab, BlockDeviceMappings=[root, more])
    ec2 = lab.client("ec2")
    image = ec2.create_image(InstanceId=instance, Name="two-volumes")["ImageId"]
    described = ec2.describe_images(ImageIds=[image])["Images"][0]
    devices = {each["DeviceName"]: each["Ebs"] for each in described["BlockDeviceMappings"]}

    assert devices["/dev/xvda"]["VolumeSize"] == 20
    assert devices["/dev/xvda"]["Throughput"] == 250
    assert devices["/dev/sdf"]["VolumeSize"] == 3
    ec2.terminate_instances(InstanceIds=[instance])
    assert [line.split()[1] for line in lab.holdings()] == ["image", "snapshot", "snapshot"]


# --- groups and images ----------------------------------------------------------------------------


def test_a_security_group_stays_while_an_instance_is_in_it(lab: Lab) -> None:
    ec2 = lab.client("ec2")
    group = ec2.create_security_group(GroupName="x", Description="x")["GroupId"]
    fails("InvalidGroup.Duplicate", ec2.create_security_group, GroupName="x", Description="x")
    instance = launch(lab, SecurityGroupIds=[group])

    fails("DependencyViolation", ec2.delete_security_group, GroupId=group)
    ec2.terminate_instances(InstanceIds=[instance])
    ec2.describe_instances()
    ec2.delete_security_group(GroupId=group)
    assert lab.holdings() == []


def test_an_image_and_its_copy_have_tags_snapshots_and_names_of_their_own(lab: Lab) -> None:
    ec2, there = lab.client("ec2"), lab.client("ec2", "us-east-1")
    instance = launch(lab)
    tags = [
        {"ResourceType": kind, "Tags": [{"Key": "baker:bake", "Value": "B1"}]}
        for kind in ("image", "snapshot")
    ]
    image = ec2.create_image(InstanceId=instance, Name="web-1", TagSpecifications=tags)["ImageId"]
    fails("InvalidAMIName.Duplicate", ec2.create_image, InstanceId=instance, Name="web-1")
    ec2.terminate_instances(InstanceIds=[instance])
    asked = {"SourceImageId": image, "SourceRegion": lab.region, "Name": "web-1", "ClientToken": "token"}
    copy = there.copy_image(**asked, TagSpecifications=tags)["ImageId"]

    assert there.copy_image(**asked, TagSpecifications=tags)["ImageId"] == copy
    fails("IdempotentParameterMismatch", there.copy_image, **{**asked, "Name": "web-2"})
    assert [line.partition("baker:bake=")[2] for line in lab.holdings()] == ["B1"] * 4
    found = there.describe_images(Owners=["self"], Filters=[{"Name": "tag:baker:bake", "Values": ["B*"]}])
    snapshot = found["Images"][0]["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"]
    fails("InvalidSnapshot.InUse", there.delete_snapshot, SnapshotId=snapshot)
    there.deregister_image(ImageId=copy)
    there.delete_snapshot(SnapshotId=snapshot)
    assert lab.holdings("us-east-1") == []


def test_an_image_fails_when_it_is_told_to(lab: Lab) -> None:
    lab.faults.add(ImageFault(action="CreateImage", kind="fails"))
    ec2 = lab.client("ec2")
    instance = launch(lab)
    describe(lab, instance)
    image = ec2.create_image(InstanceId=instance, Name="broken")["ImageId"]

    described = ec2.describe_images(ImageIds=[image])["Images"][0]
    assert described["State"] == "failed"
    assert described["StateReason"]["Message"]


def test_deprecation_sharing_and_imds_are_kept(lab: Lab) -> None:
    ec2 = lab.client("ec2")
    instance = launch(lab)
    describe(lab, instance)
    image = ec2.create_image(InstanceId=instance, Name="shared")["ImageId"]
    describe(lab, instance)
    organization = "arn:aws:organizations::123456789012:organization/o-abc"
    ec2.modify_image_attribute(ImageId=image, ImdsSupport={"Value": "v2.0"})
    ec2.modify_image_attribute(ImageId=image, LaunchPermission={"Add": [{"OrganizationArn": organization}]})
    ec2.enable_image_deprecation(ImageId=image, DeprecateAt="2130-01-01T00:00:00Z")

    described = ec2.describe_images(ImageIds=[image])["Images"][0]
    assert described["ImdsSupport"] == "v2.0"
    assert described["DeprecationTime"] == "2130-01-01T00:00:00.000Z"
    permissions = ec2.describe_image_attribute(ImageId=image, Attribute="launchPermission")
    assert permissions["LaunchPermissions"] == [{"OrganizationArn": organization}]


def test_the_stock_has_one_proper_source_and_those_that_are_not(lab: Lab) -> None:
    ec2 = lab.client("ec2")
    name = [{"Name": "name", "Values": ["debian-13-amd64-*"]}]
    debian = {"Owners": ["136693071363"], "Filters": name}
    parameter = lab.client("ssm").get_parameter(Name="/aws/service/debian/release/13/latest/amd64")

    assert parameter["Parameter"]["Value"] == lab.source_ami
    usual = {image["ImageId"] for image in ec2.describe_images(**debian)["Images"]}
    assert usual == {lab.source(), lab.source("older")}
    everything = ec2.describe_images(**debian, IncludeDeprecated=True, IncludeDisabled=True)["Images"]
    assert {image["ImageId"] for image in everything} - usual == {
        lab.source("deprecated"),
        lab.source("disabled"),
    }
    assert lab.source("foreign") in {each["ImageId"] for each in ec2.describe_images(Filters=name)["Images"]}


# --- SSH without machines -------------------------------------------------------------------------


def test_an_instance_shows_the_host_key_of_its_user_data_and_takes_its_login_key(lab: Lab) -> None:
    host_key, login_key = make_key(), make_key()
    lab.fleet.answers.append(
        lambda command, stdin: (3, b"out:" + stdin, b"err") if "cat" in command else None
    )
    address = describe(lab, launch(lab, UserData=make_user_data(host_key, login_key)))["PublicIpAddress"]
    wait_for_ssh(lab, address, login_key)

    with connect(lab, address, login_key) as client:
        assert client.get_transport().get_remote_server_key() == load_key(host_key)
        stdin, stdout, stderr = client.exec_command("cat")
        stdin.write(b"in")
        stdin.channel.shutdown_write()
        assert (stdout.read(), stderr.read(), stdout.channel.recv_exit_status()) == (b"out:in", b"err", 3)
        assert client.exec_command("true")[1].channel.recv_exit_status() == 0
    with pytest.raises(paramiko.AuthenticationException):
        connect(lab, address, make_key())


def test_an_instance_is_a_bastion_to_another(lab: Lab) -> None:
    login_key = make_key()
    user_data = make_user_data(make_key(), login_key)
    near = describe(lab, launch(lab, UserData=user_data))["PublicIpAddress"]
    far = describe(lab, launch(lab, UserData=user_data))["PrivateIpAddress"]
    wait_for_ssh(lab, near, login_key)
    wait_for_ssh(lab, far, login_key)

    with connect(lab, near, login_key) as bastion:
        way = bastion.get_transport().open_channel("direct-tcpip", (far, lab.ssh_port), ("127.0.0.1", 0))
        with connect(lab, far, login_key, way) as client:
            assert run(client, "cloud-init status") == "status: done"


def test_instances_may_show_a_wrong_key_refuse_sudo_and_not_answer(lab: Lab) -> None:
    host_key, login_key = make_key(), make_key()
    lab.faults.add(InstanceFault(kind="wrong-host-key", nth=1), InstanceFault(kind="no-sudo", nth=1))
    lab.faults.add(InstanceFault(kind="no-ssh", nth=2))
    user_data = make_user_data(host_key, login_key)
    address = describe(lab, launch(lab, UserData=user_data))["PublicIpAddress"]
    silent = describe(lab, launch(lab, UserData=user_data))["PublicIpAddress"]
    wait_for_ssh(lab, address, login_key)

    with connect(lab, address, login_key) as client:
        assert client.get_transport().get_remote_server_key() != load_key(host_key)
        assert client.exec_command("sudo -n true")[1].channel.recv_exit_status() == 1
    with pytest.raises(OSError, match="Unable to connect"):
        connect(lab, silent, login_key)


def wait_for_ssh(lab: Lab, address: str, login_key: str) -> None:
    def answers() -> bool:
        try:
            connect(lab, address, login_key).close()
        except (OSError, paramiko.SSHException):
            return False
        return True

    wait_for(answers)


# --- machines -------------------------------------------------------------------------------------


@pytest.mark.machine
@pytest.mark.usefixtures("nothing_left_behind")
def test_instances_boot_their_image_with_cloud_init_and_an_image_is_what_its_instance_was(
    bodies_home: Path,
) -> None:
    host_key, login_key = make_key(), make_key()
    user_data = make_user_data(host_key, login_key)
    with running_lab(Bodies(bodies_home)) as lab:
        ec2 = lab.client("ec2")
        first = launch(lab, UserData=user_data)
        with log_in(lab, first, login_key) as client:
            assert client.get_transport().get_remote_server_key() == load_key(host_key)
            assert run(client, "cloud-init status --wait") == "status: done"
            assert run(client, "sudo -n id -u") == "0"
            run(client, "echo kept | sudo tee /etc/kept; sudo systemctl poweroff")
        wait_for(lambda: describe(lab, first)["State"]["Name"] == "stopped")
        image = ec2.create_image(InstanceId=first, Name="one")["ImageId"]
        ec2.get_waiter("image_available").wait(ImageIds=[image], WaiterConfig={"Delay": 0.1})
        ec2.terminate_instances(InstanceIds=[first])
        lab.faults.add(InstanceFault(kind="no-sudo"), InstanceFault(kind="cloud-init-fails"))
        lab.faults.add(InstanceFault(kind="wrong-host-key"))
        second = launch(lab, ImageId=image, UserData=user_data)
        with log_in(lab, second, login_key) as client:
            assert client.get_transport().get_remote_server_key() != load_key(host_key)
            assert run(client, "cat /etc/kept") == "kept"
            assert run(client, "cat /var/lib/cloud/data/instance-id") == second
            assert run(client, "cloud-init status --wait") == "status: error"
            assert run(client, "sudo -n id -u || echo refused") == "refused"
        assert set(Path("/sys/class/net").glob(f"lab{os.getpid():x}-*")) != set()
        assert "Cloud-init v." in ec2.get_console_output(InstanceId=second)["Output"]
    assert set(Path("/sys/class/net").glob(f"lab{os.getpid():x}-*")) == set()


def log_in(lab: Lab, instance: str, login_key: str) -> paramiko.SSHClient:
    wait_for(lambda: "PublicIpAddress" in describe(lab, instance))
    address = describe(lab, instance)["PublicIpAddress"]
    wait_for_ssh(lab, address, login_key)
    return connect(lab, address, login_key)


def run(client: paramiko.SSHClient, command: str) -> str:
    return client.exec_command(command)[1].read().decode().strip()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60.0
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)

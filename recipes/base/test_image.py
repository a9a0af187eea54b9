"""What every machine made from this image can rely on. Run on a fresh one, booted.

A local machine is bare. One on AWS is given data at its first boot, which cloud-init acts upon: a user, keys.
"""


def is_given_data(host):
    """Whether this is a machine of a cloud, or has a seed as one gives it."""
    bare = host.run("systemd-detect-virt").stdout.strip() == "systemd-nspawn"
    return not bare or host.file("/var/lib/cloud/seed/nocloud/user-data").exists


def test_machine_is_fully_up(host):
    assert host.run("systemctl is-system-running --wait").stdout.strip() == "running", host.check_output(
        "systemctl --failed --no-legend --plain"
    )


def test_kernel_and_its_modules_are_there(host):
    kernel = host.check_output("readlink -e /vmlinuz")
    version = kernel.removeprefix("/boot/vmlinuz-")
    assert "cloud" in version
    assert host.file(kernel).size > 1_000_000
    assert host.file(f"/lib/modules/{version}/modules.dep").size > 0


def test_kernel_can_mount_its_root_without_an_initrd(host):
    version = host.check_output("readlink -e /vmlinuz").removeprefix("/boot/vmlinuz-")
    config = host.file(f"/boot/config-{version}").content_string.splitlines()
    for option in ("BLK_DEV_NVME", "EFI_PARTITION", "EFI_STUB", "EXT4_FS"):
        assert f"CONFIG_{option}=y" in config
    if not is_given_data(host):  # an AMI brings its own
        assert not host.file(f"/boot/initrd.img-{version}").exists


def test_cloud_init_runs_where_a_machine_is_given_data_and_stays_off_elsewhere(host):
    assert host.package("cloud-init").is_installed
    expected = "done" if is_given_data(host) else "disabled"
    assert host.run("cloud-init status --wait").stdout.strip() == f"status: {expected}"


def test_cloud_init_looks_for_its_data_only_where_it_was_told(host):
    # The last line of the last file wins, as in ds-identify.
    lines = host.check_output("cat /etc/cloud/cloud.cfg /etc/cloud/cloud.cfg.d/*.cfg").splitlines()
    told = [line for line in lines if line.startswith("datasource_list:")]
    assert told[-1] == "datasource_list: [NoCloud, Ec2, None]"


def test_root_file_system_can_grow(host):
    assert host.exists("growpart")
    assert host.exists("resize2fs")


def test_host_keys_were_made_by_this_boot(host):
    shown = host.check_output("systemctl show --timestamp=unix --property=UserspaceTimestamp --value")
    keys = host.check_output("stat --format='%n %a %Y' /etc/ssh/ssh_host_*_key").splitlines()
    made = {name: (mode, int(time)) for name, mode, time in (key.split() for key in keys)}
    assert "/etc/ssh/ssh_host_ed25519_key" in made
    for mode, time in made.values():
        assert (mode, time >= int(shown.strip().removeprefix("@"))) == ("600", True)
    if not is_given_data(host):
        # Its condition is that there are none: it holds only if none were baked in.
        unit = host.check_output("systemctl show ssh-host-keys --property=ConditionResult,Result")
        assert set(unit.splitlines()) == {"ConditionResult=yes", "Result=success"}
        assert len(made) == 3


def test_sshd_answers_with_the_new_host_key(host):
    public_key = host.file("/etc/ssh/ssh_host_ed25519_key.pub").content_string.split()[1]
    assert public_key in host.check_output("ssh-keyscan -t ed25519 127.0.0.1")


def test_sshd_offers_no_way_in_but_keys(host):
    attempt = host.run(
        "ssh -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null root@127.0.0.1 true"
    )
    assert attempt.rc == 255
    assert "Permission denied (publickey)" in attempt.stderr


def test_root_gets_in_with_no_password(host):
    settings = host.check_output("sshd -T").splitlines()
    for setting in (
        "permitrootlogin without-password",
        "passwordauthentication no",
        "permitemptypasswords no",
    ):
        assert setting in settings


def test_no_account_has_a_password(host):
    accounts = [line.split(":") for line in host.file("/etc/shadow").content_string.splitlines()]
    assert [name for name, password, *_ in accounts if not password.startswith(("!", "*"))] == []


def test_kernel_settings_are_in_force(host):
    assert host.sysctl("net.ipv4.tcp_syncookies") == 1
    for interfaces in ("all", "default"):
        assert host.sysctl(f"net.ipv4.conf.{interfaces}.accept_redirects") == 0
        assert host.sysctl(f"net.ipv4.conf.{interfaces}.rp_filter") == 2


def test_journal_is_bounded(host):
    assert (
        "SystemMaxUse=200M"
        in host.check_output("systemd-analyze cat-config systemd/journald.conf").splitlines()
    )


def test_nothing_upgrades_the_machine_on_its_own(host):
    assert not host.package("unattended-upgrades").is_installed
    assert 'APT::Periodic::Enable "0";' in host.check_output("apt-config dump APT::Periodic::Enable")


def test_recommended_packages_stay_out(host):
    assert 'APT::Install-Recommends "false";' in host.check_output("apt-config dump APT::Install-Recommends")

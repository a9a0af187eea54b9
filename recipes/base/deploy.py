"""A Debian that every other image is built upon. Nothing in it is specific to one machine or one service.

It makes one of a bare bootstrap, and one of Debian's own AMI (``from_ami``), which brings its kernel with an
initrd, its network set-up and its clock: those stay as Debian made them for EC2.

Security updates come with the next bake: an image is replaced, never changed, so there is no
unattended-upgrades here. A machine that upgraded itself would no longer be the image that was tested.
"""

from pyinfra import host
from pyinfra.facts.server import Arch
from pyinfra.operations import apt, files, systemd

FROM_AMI = host.data.from_ami
KERNEL = {"x86_64": "linux-image-cloud-amd64", "aarch64": "linux-image-cloud-arm64"}

# --- packages ---------------------------------------------------------------------------------------

files.put(
    name="Install no recommended packages, here and in every image built upon this one",
    src="recipes/base/files/apt.conf",
    dest="/etc/apt/apt.conf.d/90-image",
    mode="644",
)
files.put(
    name="Leave manuals and translations out",
    src="recipes/base/files/dpkg.cfg",
    dest="/etc/dpkg/dpkg.cfg.d/90-image",
    mode="644",
)
apt.packages(
    name="Install what a cloud machine needs",
    packages=[
        "ca-certificates",
        "cloud-guest-utils",
        "cloud-init",
        "e2fsprogs",
        "libpam-systemd",
        "openssh-server",
        "sudo",
        *([] if FROM_AMI else ["ifupdown", "systemd-timesyncd"]),
    ],
    update=True,
    cache_time=3600,
)
apt.packages(
    name="Remove what would upgrade a machine on its own",
    packages=["unattended-upgrades"],
    present=False,
    extra_uninstall_args="--purge",
)
if FROM_AMI:  # it is as old as the AMI; a bootstrap is as new as the archive
    apt.dist_upgrade(name="Bring what the AMI holds up to date")
# No initrd, unless an AMI brings one: the cloud kernel has NVMe, EFI and ext4 built in, so it mounts its root
# by PARTUUID without.
# An initrd would hold the build's time stamps and cost more than all the rest of this recipe.
apt.packages(
    name="Install the cloud kernel",
    packages=[KERNEL[host.get_fact(Arch)]],
    _env={"INITRD": "No"},
)

# --- first boot ---------------------------------------------------------------------------------------

files.put(
    name="Say where cloud-init may look for its data (elsewhere it stays off)",
    src="recipes/base/files/cloud.cfg",
    dest="/etc/cloud/cloud.cfg.d/95_image.cfg",
    mode="644",
)
files.put(
    name="Make host keys at the first boot, also where there is no cloud-init",
    src="recipes/base/files/ssh-host-keys.service",
    dest="/etc/systemd/system/ssh-host-keys.service",
    mode="644",
)
systemd.service(
    name="Enable the making of host keys",
    service="ssh-host-keys",
    running=False,
    enabled=True,
)

# --- hardening ------------------------------------------------------------------------------------------

files.put(
    name="Let nobody log in with a password",
    src="recipes/base/files/sshd.conf",
    dest="/etc/ssh/sshd_config.d/10-image.conf",
    mode="644",
)
files.template(
    name="Harden the kernel",
    src="templates/base/sysctl.conf.j2",
    dest="/etc/sysctl.d/60-image.conf",
    mode="644",
    settings=host.data.sysctl,
)
files.template(
    name="Bound what the journal may fill",
    src="templates/base/journald.conf.j2",
    dest="/etc/systemd/journald.conf.d/10-image.conf",
    mode="644",
    max_use=host.data.journal_max_use,
)
systemd.service(
    name="Accept SSH at boot",
    service="ssh",
    running=True,
    enabled=True,
)

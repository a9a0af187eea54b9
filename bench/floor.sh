#!/bin/sh
# The floor: what recipes/small comes to, done by hand in the same kind of machine, without baker.
# A booted systemd-nspawn on an overlay of the same EROFS layer, network by pasta, apt with the same lists
# and packages, the same files and unit, and an EROFS layer of what it wrote, on disk at the end.
# Run in new mount and pid namespaces and a control group of its own. Environment: LAYER, LISTS, DEBS, FILES
# (a tree of what the templates render to), WORK (an empty folder), RESOLV_CONF, OUT (the layer to write).
set -eu
mount -t tmpfs -o mode=755,nosuid,nodev tmpfs /run
mkdir -p /run/netns /run/lower /run/root
stack() { # NAME LOWER MOUNT_POINT
    mkdir -p "$WORK/$1/upper" "$WORK/$1/work"
    mount -t overlay -o "volatile,redirect_dir=off,lowerdir=$2,upperdir=$WORK/$1/upper,workdir=$WORK/$1/work" overlay "$3"
}
mount -t erofs -o ro,loop "$LAYER" /run/lower
stack root /run/lower /run/root
stack lists "$LISTS" /run/root/var/lib/apt/lists
stack debs "$DEBS" /run/root/var/cache/apt/archives
systemd-nspawn --quiet --directory=/run/root --machine=floor --hostname=floor --register=no --keep-unit --boot \
    --private-network --link-journal=no --resolv-conf=off --timezone=off --console=pipe \
    --bind-ro="$RESOLV_CONF:/etc/resolv.conf" >"$WORK/console" 2>&1 </dev/null &
nspawn=$!
leader=
until [ -n "$leader" ]; do
    kill -0 "$nspawn"
    for child in $(cat "/proc/$nspawn/task/$nspawn/children"); do
        grep -q '^NSpid:.*	1$' "/proc/$child/status" && leader=$child
    done
    sleep 0.005
done
ip netns attach machine "$leader"
pasta --quiet --config-net --no-map-gw --runas 0 -t none -u none -T none -U none --netns machine
inside() { nsenter -t "$leader" -a -r -w -- "$@"; }
until inside systemctl is-system-running --wait >"$WORK/state" 2>&1 || grep -q degraded "$WORK/state"; do
    sleep 0.02
done
inside systemctl stop '*.timer'
inside apt-get update -q
DEBIAN_FRONTEND=noninteractive inside apt-get install -y -q nginx-light
tar -C "$FILES" -c . | inside tar -C / -x --no-same-owner
inside systemctl daemon-reload
inside systemctl enable --now bench.service
kill -s RTMIN+4 "$leader"
wait "$nspawn" || true
rm -rf "$WORK/root/upper/var/log/journal" "$WORK/root/upper/tmp" "$WORK/root/upper/var/tmp"
mkfs.erofs --quiet -zlz4 "$OUT" "$WORK/root/upper" >/dev/null
sync "$OUT"

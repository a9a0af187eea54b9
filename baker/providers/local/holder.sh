#!/bin/sh
# The first process of a machine's private mount and pid namespaces: stacks the layers, boots them, and
# boots them again when the machine reboots.
# Whatever is mounted or started here ends with this process. Arguments: the layers, lowest first.
# Environment: BAKER_MACHINE (folder of the machine), BAKER_HOSTNAME, BAKER_NSPAWN (lines, further options),
# BAKER_BOOT (arguments for the machine's init), BAKER_BINDS (lines "lower<TAB>path in the machine"),
# BAKER_REBOOTS (no: a machine that reboots has ended).
set -eu
# A private /run: what nspawn and ip leave there goes with the namespace.
mount -t tmpfs -o mode=755,nosuid,nodev tmpfs /run
mkdir -p /run/netns /run/baker/root
lower=
number=0
for layer in "$@"; do
    mkdir "/run/baker/$number"
    mount -t erofs -o ro,loop "$layer" "/run/baker/$number"
    lower="/run/baker/$number${lower:+:$lower}"
    number=$((number + 1))
done
# redirect_dir=off: every layer holds whole folders, so that a layer means something by itself.
mount -t overlay -o "volatile,redirect_dir=off,index=off,metacopy=off,lowerdir=$lower,upperdir=$BAKER_MACHINE/upper,workdir=$BAKER_MACHINE/work" \
    overlay /run/baker/root
printf '%s' "$BAKER_BINDS" | while IFS='	' read -r name source path; do
    mkdir -p "$BAKER_MACHINE/binds/$name/upper" "$BAKER_MACHINE/binds/$name/work"
    mount -t overlay -o "volatile,redirect_dir=off,lowerdir=$source,upperdir=$BAKER_MACHINE/binds/$name/upper,workdir=$BAKER_MACHINE/binds/$name/work" \
        overlay "/run/baker/root$path"
done
set --
while IFS= read -r option; do
    [ -z "$option" ] || set -- "$@" "$option"
done <<EOF
$BAKER_NSPAWN
EOF
# nspawn ends with 133 when the machine reboots: start it again, in a network of its own again. Uptime starts
# at zero each time: it is how a recipe sees that the machine was rebooted.
while :; do
    status=0
    uptime=$(cut -d. -f1 /proc/uptime)
    # shellcheck disable=SC2086  # a list of words of ours, without blanks in them
    unshare --time --boottime "-$uptime" --fork --kill-child=KILL \
        systemd-nspawn --quiet --directory=/run/baker/root --machine="$BAKER_HOSTNAME" --hostname="$BAKER_HOSTNAME" \
        --register=no --keep-unit --boot --private-network --link-journal=no --resolv-conf=off --timezone=off \
        --console=pipe --bind-ro="$BAKER_MACHINE/resolv.conf:/etc/resolv.conf" "$@" -- $BAKER_BOOT || status=$?
    [ "$status" -eq 133 ] && [ "$BAKER_REBOOTS" = yes ] || exit "$status"
    ip netns delete machine 2>/dev/null || : # one without network has none
done

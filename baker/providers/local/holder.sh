#!/bin/sh
# The first process of a machine's private mount and pid namespaces: stacks the layers and boots them.
# Whatever is mounted or started here ends with this process. Arguments: the layers, lowest first.
# Environment: BAKER_MACHINE (folder of the machine), BAKER_HOSTNAME, BAKER_NSPAWN (further options),
# BAKER_BOOT (arguments for the machine's init), BAKER_BINDS (lines "lower<TAB>path in the machine").
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
# shellcheck disable=SC2086  # both are lists of words of ours, without blanks in them
exec systemd-nspawn --quiet --directory=/run/baker/root --machine="$BAKER_HOSTNAME" --hostname="$BAKER_HOSTNAME" \
    --register=no --keep-unit --boot --private-network --link-journal=no --resolv-conf=off --timezone=off \
    --console=pipe --bind-ro="$BAKER_MACHINE/resolv.conf:/etc/resolv.conf" $BAKER_NSPAWN -- $BAKER_BOOT

#!/bin/sh
# What recipes/small comes to, by buildah: the same package, files and unit on the same root file system.
# Environment: STORAGE (buildah's options), BASE (the image that was imported once), LISTS, DEBS (folders of
# its own), FILES. chroot isolation, which needs the least of the host; services cannot run in it.
set -eu
# shellcheck disable=SC2086  # STORAGE is a list of words
buildah() { command buildah $STORAGE "$@"; }
container=$(buildah from --pull-never "$BASE")
run() {
    buildah run --isolation chroot -e DEBIAN_FRONTEND=noninteractive -v "$LISTS:/var/lib/apt/lists" \
        -v "$DEBS:/var/cache/apt/archives" "$container" -- "$@"
}
run apt-get update -q
run apt-get install -y -q nginx-light
buildah copy --quiet "$container" "$FILES" /
run systemctl enable bench.service
buildah commit --quiet "$container" small >/dev/null
buildah rm "$container" >/dev/null

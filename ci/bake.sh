#!/bin/sh
# Plans and bakes in a CI, any CI: ci/bake.sh, in the project's folder, with baker on PATH.
#
# It is told by variables what to do, so that nothing of a pull request ever becomes part of a command:
#
#   BAKER_CI_COMMAND    bake (the default: plan, then bake), plan or nightly
#   BAKER_CI_RECIPES    names, divided by spaces or line breaks; every recipe if there is none
#   BAKER_CI_TARGETS    local, aws: likewise
#   BAKER_CI_SINCE      a commit or branch: only what was changed since, and what is built upon it
#   BAKER_CI_CHANNEL    bake for this preview channel …
#   BAKER_CI_EXPIRES    … which is collected after this time (7d)
#   BAKER_CI_JOBS       how many recipes are baked at once
#   BAKER_CI_EPHEMERAL  true: the catalog may go with this job
#   BAKER_CI_CATALOG    as BAKER_CATALOG
#   BAKER_CI_SUDO       auto (the default: where this is not root, and sudo asks for no password), true or false
#   BAKER_CI_OUT        the folder for what comes of it (baker-ci; on GitHub a new one for each step)
#
# It writes there what there is of plan.json, bake.json, nightly.json (documented in docs/ci.md), baked.json (a
# list of the images that were baked), changed (true or false) and summary.md. On GitHub the summary goes to the
# page of the job, and all of it to the outputs of the step. The exit code is baker's. A job that is cancelled
# ends baker once, by SIGTERM, and waits until it has cleaned up.
set -euf

command=${BAKER_CI_COMMAND:-bake}
case $command in
    bake | plan | nightly) ;;
    *) echo "BAKER_CI_COMMAND is bake, plan or nightly, not $command" >&2 && exit 2 ;;
esac

if [ -n "${BAKER_CI_CATALOG:-}" ]; then
    export BAKER_CATALOG="$BAKER_CI_CATALOG"
fi

if [ -n "${BAKER_CI_OUT:-}" ] || [ -z "${RUNNER_TEMP:-}" ]; then
    out=${BAKER_CI_OUT:-baker-ci}
    if [ ! -d "$out" ]; then
        mkdir -p "$out"
        echo '*' >"$out/.gitignore" # what comes of a run is no change of the project
    elif [ "$(cd "$out" && pwd -P)" = "$(pwd -P)" ]; then
        echo "BAKER_CI_OUT is a folder of its own, not the project's" >&2 && exit 2
    fi
    (cd "$out" && rm -f plan.json bake.json nightly.json baked.json changed summary.md)
else
    out=$(mktemp -d "$RUNNER_TEMP/baker-ci.XXXXXX")
fi
out=$(cd "$out" && pwd)
: >"$out/summary.md"

# Out of reach of what ends the whole group of processes (Ctrl-C, some CIs): baker is to be told once.
apart=$(command -v setsid || true)

sudo=${BAKER_CI_SUDO:-auto}
if [ "$sudo" = auto ]; then
    if [ "$(id -u)" != 0 ] && $apart sudo -n true 2>/dev/null; then sudo=true; else sudo=false; fi
fi

baker=
ended=
end_baker() {
    trap '' TERM INT HUP # a second one would have baker leave all as it is
    ended=true
    if [ -z "$baker" ]; then
        return
    elif [ "$sudo" = true ]; then
        sudo -n kill -TERM "$baker" || true # sudo is root's, and passes it on
    else
        kill -TERM "$baker" 2>/dev/null || true
    fi
}
trap end_baker TERM INT HUP

run_baker() {
    if [ -n "$ended" ]; then
        return 130
    elif [ "$sudo" = true ]; then
        $apart sudo -E env "PATH=$PATH" baker "$@" &
    else
        $apart baker "$@" &
    fi
    baker=$!
    if [ -n "$ended" ]; then # this very moment
        end_baker
    fi
    code=0
    wait "$baker" || code=$?
    if [ -n "$ended" ] && [ "$code" -gt 128 ]; then # the signal broke off the wait, and not baker
        code=0
        wait "$baker" || code=$?
    fi
    baker=
    return "$code"
}

# What every command takes, in the end: options, then recipes.
set --
for target in ${BAKER_CI_TARGETS:-}; do
    set -- "$@" --target "$target"
done
if [ -n "${BAKER_CI_SINCE:-}" ]; then
    set -- "$@" --since "$BAKER_CI_SINCE"
fi
if [ "${BAKER_CI_EPHEMERAL:-}" = true ]; then
    set -- "$@" --ephemeral
fi
if [ -n "${BAKER_CI_CHANNEL:-}" ]; then
    set -- "$@" --channel "$BAKER_CI_CHANNEL"
fi
# shellcheck disable=SC2086 # names are divided by spaces; set -f keeps them from being globs
set -- "$@" -- ${BAKER_CI_RECIPES:-}

status=0
if [ "$command" = plan ]; then
    run_baker plan --json --summary "$out/summary.md" "$@" >"$out/plan.json" || status=$?
    cat "$out/summary.md"
elif [ "$command" = bake ]; then
    run_baker plan --json "$@" >"$out/plan.json" || status=$?
fi
if [ "$command" != plan ] && [ "$status" = 0 ]; then
    if [ -n "${BAKER_CI_JOBS:-}" ]; then
        set -- --jobs "$BAKER_CI_JOBS" "$@"
    fi
    if [ -n "${BAKER_CI_EXPIRES:-}" ]; then
        set -- --expires "$BAKER_CI_EXPIRES" "$@"
    fi
    run_baker "$command" --json --summary "$out/summary.md" "$@" >"$out/$command.json" || status=$?
fi
if [ "$status" != 0 ] && [ ! -s "$out/summary.md" ]; then
    printf '### baker: failed\n\nThe exit code is %s; the log of this job says why.\n' "$status" >"$out/summary.md"
fi

# A command that failed before it began has printed nothing, a killed one may have printed a part: no image, no change.
python3 - "$out" <<'PY'
import json
import pathlib
import sys

out = pathlib.Path(sys.argv[1])


def read(name):
    path = out / name
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except ValueError:
        path.unlink()
        return {}


plan = read("plan.json")
done = {**read("bake.json"), **read("nightly.json")}
images = [bake["image"] for bake in done.get("bakes", ()) if bake["outcome"] == "baked"]
baked = list(dict.fromkeys(images))
(out / "baked.json").write_text(json.dumps(baked) + "\n")
changed = bool(baked) if done else plan.get("stale", False)
(out / "changed").write_text(json.dumps(changed) + "\n")
PY

# A value may be anything but a line that was drawn this moment.
write_output() {
    mark=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
    printf '%s<<%s\n%s\n%s\n' "$1" "$mark" "$2" "$mark" >>"$GITHUB_OUTPUT"
}

if [ -n "${GITHUB_OUTPUT:-}" ]; then
    write_output baked "$(cat "$out/baked.json")"
    write_output changed "$(cat "$out/changed")"
    write_output folder "$out"
    write_output summary "$out/summary.md"
    # All outputs of a job may hold 1 MB.
    if [ -f "$out/plan.json" ] && [ "$(wc -c <"$out/plan.json")" -lt 400000 ]; then
        write_output plan "$(cat "$out/plan.json")"
    fi
fi
if [ -n "${GITHUB_STEP_SUMMARY:-}" ]; then
    cat "$out/summary.md" >>"$GITHUB_STEP_SUMMARY"
fi
exit "$status"

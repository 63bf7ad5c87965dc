#!/usr/bin/env bash
# Builds both images with Podman or Docker, and says so where there is neither. Variables:
#
#   BASE           another base image. Where no registry of images is reached and mmdebstrap is there, the base is made of
#                  Debian's packages.
#   BUILD_OPTIONS  more options of the engine's `build`, such as --volume for the certificates of a proxy.
set -euo pipefail
cd "$(dirname "$0")/../.."

engine=$(command -v podman || command -v docker || true)
if [ -z "$engine" ]; then
    echo 'the images: not built, for there is neither podman nor docker'
    exit 0
fi

if [ -z "${BASE:-}" ]; then
    BASE=docker.io/library/python:3.11-slim-bookworm
    if ! "$engine" image inspect "$BASE" >/dev/null 2>&1 && ! "$engine" pull --quiet "$BASE" && command -v mmdebstrap >/dev/null; then
        BASE=localhost/scenario-runner-base
        echo "the base: made of Debian's packages, as $BASE"
        mmdebstrap --quiet --variant=minbase --include=ca-certificates,python3,python3-venv bookworm - | "$engine" import - "$BASE"
    fi
fi

for target in server worker; do
    tag=scenario-runner
    [ "$target" = server ] || tag=scenario-runner-worker
    # Only in Docker's own format an image keeps how its health is checked; Docker knows no other.
    format=()
    case "$engine" in */podman) format=(--format docker) ;; esac
    # shellcheck disable=SC2086 # several options
    "$engine" build "${format[@]}" ${BUILD_OPTIONS:-} --build-arg "BASE=$BASE" --file deploy/container/Containerfile \
        --target "$target" --tag "$tag" .
    echo "the image $tag: built"
done

#!/usr/bin/env bash
# Makes the container image from a binary that was built here: nothing is pulled, no registry is needed.
#
#   deploy/image.sh                        target/release/decklog becomes the image decklog:latest
#   deploy/image.sh BINARY TAG             another binary, another name
#
# The image holds the binary without its debugging information, the libraries that `ldd` names, and an empty /data.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
binary=${1:-$here/../target/release/decklog}
tag=${2:-decklog:latest}

die() { echo "image.sh: $*" >&2; exit 1; }
[ $# -le 2 ] || die "usage: deploy/image.sh [BINARY [TAG]]"
[ -x "$binary" ] || die "$binary is not there: cargo build --release"
command -v docker >/dev/null || die "docker is not there"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/root" "$work/data"
chmod 0755 "$work" "$work/root"
chmod 0700 "$work/data"
if command -v strip >/dev/null; then
  strip -o "$work/root/decklog" "$binary"
else
  cp "$binary" "$work/root/decklog"
fi
chmod 0755 "$work/root/decklog"
# A static binary names none. The loader stands where the binary looks for it, the others where the loader does.
if libraries=$(ldd "$binary" 2>/dev/null); then
  for library in $(awk '/=> \//{print $3} /^[ \t]*\//{print $1}' <<<"$libraries"); do
    install -D -m 0755 "$(readlink -f "$library")" "$work/root$library"
  done
fi
cp "$here/Dockerfile" "$work/"
# Both builders of Docker make it; their notes about each other are not of interest here.
if ! said=$(docker build --tag "$tag" "$work" 2>&1); then
  printf '%s\n' "$said" >&2
  die "docker build failed"
fi
bytes=$(docker image inspect --format '{{.Size}}' "$tag")
echo "$tag: $((bytes / 1000 / 1000)) MB"

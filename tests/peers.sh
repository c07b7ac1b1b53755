#!/usr/bin/env bash
# Fetches real etcd 3.5 for the tests that compare with it, as Debian packages, into a folder. No root needed.
#
#   tests/peers.sh DIR      leaves DIR/bin/{etcd,etcdctl,etcdutl}; does nothing when they are there and run
#
# Then: DECKLOG_PEERS=DIR cargo test. The mirror is the one that this system's apt sources name; SUITE chooses
# another suite than sid. The packages need nothing but libc6, so that they are unpacked, not installed.
set -euo pipefail

die() { echo "peers.sh: $*" >&2; exit 1; }
[ $# -eq 1 ] || die "usage: tests/peers.sh DIR"
command -v apt-get >/dev/null && command -v dpkg >/dev/null || die "needs apt-get and dpkg"
suite=${SUITE:-sid}
mkdir -p "$1/bin"
dir=$(cd "$1" && pwd)

versions() { "$dir/bin/etcd" --version | sed -n 1p && "$dir/bin/etcdctl" version | sed -n 1p && "$dir/bin/etcdutl" version | sed -n 1p; }
if found=$(versions 2>/dev/null); then
  printf 'already there:\n%s\n' "$found"
  exit 0
fi

mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | { grep -m1 '/debian/$' || true; })
[ -n "$mirror" ] || die "this system's apt sources name no Debian mirror"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/lists/partial "$work"/cache/archives/partial
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
echo "deb $([ -r "$keyring" ] && echo "[signed-by=$keyring]") $mirror $suite main" > "$work/sources.list"
# A source list, lists and a cache of its own: the system's are neither read nor changed.
apt=(-q -o "APT::Sandbox::User=$(id -un)" -o "Dir::Etc::SourceList=$work/sources.list" -o Dir::Etc::SourceParts=/dev/null
  -o "Dir::State::Lists=$work/lists" -o "Dir::Cache=$work/cache" -o Acquire::Languages=none -o Acquire::Retries=3)
cd "$work"
apt-get "${apt[@]}" update > log 2>&1 || { cat log >&2; die "cannot read the package lists of $suite"; }
apt-get "${apt[@]}" download etcd-server etcd-client > log 2>&1 || { cat log >&2; die "cannot fetch the packages of $suite"; }
for package in ./*.deb; do
  case $package in *_3.5.*) ;; *) die "${package#./} of $suite is not 3.5; try SUITE=trixie" ;; esac
  dpkg -x "$package" unpacked
done
for program in etcd etcdctl etcdutl; do
  # By a new name first: another process may run the old file.
  cp "unpacked/usr/bin/$program" "$dir/bin/.$program" || die "no $program in the packages of $suite"
  mv "$dir/bin/.$program" "$dir/bin/$program"
done
versions

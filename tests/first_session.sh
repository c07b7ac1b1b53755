#!/usr/bin/env bash
# Runs the README's first session for real: `cargo run --release` in a folder of its own, then every command of the
# console block, whose output must be the one that stands there (times apart). Needs etcdctl in PATH or $DECKLOG_PEERS.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
PATH=${DECKLOG_PEERS:+$DECKLOG_PEERS:$DECKLOG_PEERS/bin:}$PATH
export PATH
command -v etcdctl >/dev/null || { echo "first_session: etcdctl is missing: see tests/peers.sh" >&2; exit 1; }

cargo build --release --quiet --manifest-path "$root/Cargo.toml"
folder=$(mktemp -d)
cd "$folder"
cargo run --release --quiet --manifest-path "$root/Cargo.toml" >log 2>&1 &
server=$!
trap 'kill "$server" 2>/dev/null || true; rm -rf "$folder"' EXIT
for _ in $(seq 300); do
  grep -q "ready to serve client requests" log && break
  kill -0 "$server" 2>/dev/null || break
  sleep 0.1
done
grep -q "ready to serve client requests" log || { echo "first_session: it does not serve:" >&2; cat log >&2; exit 1; }

# What the README says, and what happens.
sed -n '/^```console$/,/^```$/p' "$root/README.md" | sed '1d;$d' >expected
sed -n 's/^\$ //p' expected | while IFS= read -r command; do
  printf '$ %s\n' "$command"
  bash -c "$command" 2>&1 </dev/null | grep -v '^{"level":"warn"' || true
done >actual
times='s/took = [0-9.]*[a-zµ]*s/took = T/'
diff <(sed "$times" expected) <(sed "$times" actual) || { echo "first_session: the README says otherwise" >&2; exit 1; }

kill "$server"
wait "$server"
echo "the first session of the README: $(grep -c '^\$' expected) commands, each with the output that stands there"

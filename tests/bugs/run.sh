#!/usr/bin/env bash
# Puts known bugs back, one at a time, and demands that the tests find them: tests/bugs/run.sh [NUMBER...]
#
# Each patch here begins with what it is: `bug`, `known` (where it was met before), `test` (what cargo test is given), `env`
# (seeds and how many of them). All are applied together to a copy of HEAD in target/bugs, which is built once; there
# DECKLOG_BUG chooses one of them by its number. Without one every test must pass, with one the test must fail.
# Prints a table: bug, test, how many seeds and seconds it took.
set -uo pipefail
cd "$(dirname "$0")/../.."
root=$PWD tree=$PWD/target/bugs/tree logs=$PWD/target/bugs/logs
mkdir -p "$logs"
# A profile of its own: what is built here shares the dependencies with the folder above, and never its results.
own=(--config profile.dev.package.decklog.debug=false)

git worktree prune
[ -e "$tree/.git" ] || git worktree add --quiet --detach --force "$tree" HEAD || exit 1
git -C "$tree" checkout --quiet --force --detach "$(git rev-parse HEAD)" || exit 1
git -C "$tree" apply "$root"/tests/bugs/*.patch || exit 1

field() { sed -n "s/^$2: //p" "$1" | head -1; }

# run LOG TEST ENV [BUG]: cargo's arguments and the variables as one text each.
run() {
  local -a test env
  read -ra test <<<"$2"
  read -ra env <<<"$3"
  (cd "$tree" && env -u DECKLOG_BUG "${env[@]}" ${4:+DECKLOG_BUG=$4} RUST_BACKTRACE=0 CARGO_TARGET_DIR="$root/target" \
    nice timeout 1800 cargo test --quiet "${own[@]}" "${test[@]}") >"$1" 2>&1
}

# How many seeds it took: from the first one to the last one that is named.
seeds() {
  local first last
  first=$(sed -n 's/.*DECKLOG_[A-Z]*_SEED=\([0-9]*\).*/\1/p' <<<"$2")
  last=$(grep -o 'DECKLOG_[A-Z]*_SEED=[0-9]*' "$1" | tail -1 | sed 's/.*=//')
  [ -n "$first" ] && [ -n "$last" ] && printf '%d seeds, ' $((last - first + 1))
}

patches=()
if [ $# -eq 0 ]; then patches=(tests/bugs/[0-9]*-*.patch); fi
for number in "$@"; do
  found=(tests/bugs/"$number"-*.patch)
  [ -f "${found[0]}" ] || { echo "there is no bug $number: numbers have two digits"; exit 2; }
  patches+=("${found[0]}")
done

missed=0 count=0
declare -A sound
printf '| bug | known from | test | found after |\n| --- | --- | --- | --- |\n'
for patch in "${patches[@]}"; do
  name=$(basename "$patch" .patch) test=$(field "$patch" test) env=$(field "$patch" env)
  [ -n "$test" ] || continue # the switch
  if [ -z "${sound[$test $env]:-}" ]; then
    run "$logs/sound.log" "$test" "$env" || { echo "fails without a bug: $env cargo test $test, see $logs/sound.log"; exit 1; }
    sound[$test $env]=1
  fi
  count=$((count + 1)) begun=$SECONDS
  run "$logs/$name.log" "$test" "$env" "$((10#${name%%-*}))"
  code=$?
  if [ $code -ne 0 ] && grep -q 'panicked at\|signal: 6' "$logs/$name.log"; then
    result="$(seeds "$logs/$name.log" "$env")$((SECONDS - begun)) s"
  else
    result="**not found**, see $logs/$name.log" missed=$((missed + 1))
  fi
  printf '| %s: %s | %s | `%s` | %s |\n' "${name%%-*}" "$(field "$patch" bug)" "$(field "$patch" known)" "$test" "$result"
done
printf '\n%d of %d found\n' $((count - missed)) "$count"
[ $missed -eq 0 ]

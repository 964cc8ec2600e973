#!/usr/bin/env bash
# Runs every fuzz target of the tree for FUZZTIME each, one after the other, and
# says at the end what failed. Inputs that fail are left in testdata/fuzz.
set -euo pipefail
cd "$(dirname "$0")/.."
fuzztime=${FUZZTIME:-30s}

log=$(mktemp)
trap 'rm -f "$log"' EXIT
targets=() failed=()
while read -r package; do
  while read -r target; do
    targets+=("$package $target")
  done < <(go test -list '^Fuzz' "$package" | grep '^Fuzz' || true)
done < <(grep -rl --include='*_test.go' '^func Fuzz' . | xargs -rn1 dirname | sort -u)

echo "fuzz.sh: ${#targets[@]} targets, $fuzztime each"
for entry in "${targets[@]}"; do
  read -r package target <<<"$entry"
  echo "== $package $target"
  # Left alone, the engine spends up to a minute on making each new input smaller, which
  # never ends well where goroutines make coverage differ from run to run.
  go test -run '^$' -fuzz "^$target\$" -fuzztime "$fuzztime" -fuzzminimizetime 10x "$package" 2>&1 | tee "$log" && continue
  # The engine sometimes reports the end of its own time as a failure of the
  # target; a real finding leaves an input or names the one that failed.
  if grep -q 'context deadline exceeded' "$log" && ! grep -qE 'Failing input|failure while testing|panic:|_test\.go:' "$log"; then
    continue
  fi
  failed+=("$entry")
done

if [[ ${#failed[@]} -gt 0 ]]; then
  printf 'fuzz.sh: FAILED %s\n' "${failed[@]}"
  exit 1
fi
echo "fuzz.sh: no findings"

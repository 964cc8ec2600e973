#!/usr/bin/env bash
# go vet and every test with the race detector, then a summary: what `make
# test` and the CI run. PACKAGES narrows it down.
set -euo pipefail
cd "$(dirname "$0")/.."
# The tools were installed: a test that misses one fails rather than skips.
export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin" CGO_ENABLED=1 CURVE_REQUIRE_TOOLS=1
read -ra packages <<<"${PACKAGES:-./...}"

log=$(mktemp)
trap 'rm -f "$log"' EXIT
start=$SECONDS
go vet "${packages[@]}"

# The packages that measure stalls of real processes and guests come last, one at a time:
# beside others on a small machine they would measure those.
alone=() together=()
while read -r package; do
  case "$package" in
    */e2e | */kerneltest) alone+=("$package") ;;
    *) together+=("$package") ;;
  esac
done < <(go list "${packages[@]}")

# Verbose, because otherwise go test keeps quiet about what was skipped; passes
# are left out of what is shown. -count=1: the end-to-end tests build the binary
# themselves, which the test cache does not see.
status=0
run() { # run FLAG... PACKAGE...
  go test -race -v -count=1 -timeout "${TEST_TIMEOUT:-40m}" "$@" 2>&1 |
    tee -a "$log" | { grep --line-buffered -vE '^ *(=== |--- PASS|PASS$)|no test files' || true; } || status=$?
}
[[ ${#together[@]} -eq 0 ]] || run "${together[@]}"
[[ ${#alone[@]} -eq 0 ]] || run -p 1 "${alone[@]}"

ok=$(grep -c '^ok ' "$log" || true)
bad=$(grep -cE '^FAIL[[:space:]]+[^[:space:]]' "$log" || true)
passed=$(grep -cE '^ *--- PASS' "$log" || true)
skipped=$(grep -cE '^ *--- SKIP' "$log" || true)
echo
echo "make test: $ok packages ok, $bad failed; $passed tests passed, $skipped skipped; $((SECONDS - start)) s"
if [[ $status -ne 0 ]]; then
  grep -E '^ *--- FAIL|^panic:|^FAIL[[:space:]]+[^[:space:]]' "$log" || true
  echo "make test: FAILED"
  exit 1
fi
echo "make test: PASSED"

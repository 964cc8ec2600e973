#!/usr/bin/env bash
# The long form of the fault tests: servers killed, stopped, cut off and restarted
# under load that checks all it reads, for an hour or so. `make test` has the short
# form of the same tests. RUN narrows it down (go test -run), FAULTS_TIMEOUT bounds
# it.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin" CGO_ENABLED=1 CURVE_REQUIRE_TOOLS=1 CURVE_FAULTS_LONG=1

# Those packages whose tests have a long form.
mapfile -t packages < <(grep -rl --include='*_test.go' CURVE_FAULTS_LONG . | xargs -rn1 dirname | sort -u)
if [[ ${#packages[@]} -eq 0 ]]; then
  echo "test-faults.sh: no test has a long form" >&2
  exit 1
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
start=$SECONDS status=0
# One package at a time: each loads the machine for itself.
go test -v -count=1 -p 1 -timeout "${FAULTS_TIMEOUT:-3h}" -run "${RUN:-.}" "${packages[@]}" 2>&1 |
  tee "$log" | { grep --line-buffered -vE '^ *=== (RUN|PAUSE|CONT|NAME)' || true; } || status=$?

passed=$(grep -cE '^ *--- PASS' "$log" || true)
skipped=$(grep -cE '^ *--- SKIP' "$log" || true)
echo
echo "make test-faults: $passed tests passed, $skipped skipped; $((SECONDS - start)) s"
if [[ $status -ne 0 ]]; then
  grep -E '^ *--- FAIL|^panic:|^FAIL[[:space:]]+[^[:space:]]' "$log" || true
  echo "make test-faults: FAILED"
  exit 1
fi
echo "make test-faults: PASSED"

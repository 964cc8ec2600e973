#!/usr/bin/env bash
# What a commit must pass besides its tests. Runs every check, then fails if one
# did.
set -uo pipefail
cd "$(dirname "$0")/.."

failed=0
step() { # step NAME COMMAND...: run it, say how it went
  local name=$1 out
  shift
  if out=$("$@" 2>&1); then
    echo "ok    $name"
  else
    echo "FAIL  $name"
    [[ -n $out ]] && printf '%s\n' "$out" | sed 's/^/      /'
    failed=1
  fi
}

formatted() {
  local bad
  bad=$(find . -name '*.go' -not -path './.git/*' -not -path './data/*' -print0 | xargs -0 gofmt -l) || return
  [[ -z $bad ]] || { echo "run gofmt -w on:"; echo "$bad"; return 1; }
}

parsed() { # bash -n looks at one file only
  local script bad=0
  for script in scripts/*.sh scripts/debian/p* scripts/kernel/init* .ci/run; do
    bash -n "$script" || bad=1
  done
  return $bad
}

step "gofmt" formatted
step "go vet" go vet ./...
step "staticcheck" go tool staticcheck ./...
step "import directions and layout" go test -count=1 -run '^TestLayout' ./cmd/curve-nbd
step "generated code is up to date" scripts/gen.sh --check
step "go.mod is tidy" go mod tidy -diff
step "scripts parse" parsed
exit "$failed"

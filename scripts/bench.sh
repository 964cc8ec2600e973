#!/usr/bin/env bash
# Compares curve-nbd with its peers; flags are those of scripts/bench.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p .cache
go build -o .cache/bench ./scripts/bench
exec .cache/bench "$@"

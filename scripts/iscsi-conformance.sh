#!/usr/bin/env bash
# Judges our iSCSI target by the tests of libiscsi, beside tgt; flags are those of
# scripts/iscsi-conformance.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/deps.sh iscsi
mkdir -p .cache
go build -o bin/ ./cmd/curve-nbd
go build -o .cache/iscsi-conformance ./scripts/iscsi-conformance
exec .cache/iscsi-conformance "$@"

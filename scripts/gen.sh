#!/usr/bin/env bash
# Regenerates what is generated from .proto files, in place. With --check it
# changes nothing and fails when the committed code differs.
#
# The Go plugins come from the `tool` lines of go.mod, so their versions are
# pinned; protoc is Debian 12's 3.21.12, whose version stands in the output.
set -euo pipefail
cd "$(dirname "$0")/.."

want_protoc="libprotoc 3.21.12"
if ! command -v protoc >/dev/null; then
  echo "gen.sh: protoc is missing: run scripts/deps.sh check" >&2
  exit 1
fi
if [[ "$(protoc --version)" != "$want_protoc" ]]; then
  echo "gen.sh: found $(protoc --version), want $want_protoc (Debian 12, package protobuf-compiler)" >&2
  exit 1
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
go build -o "$work/bin/" google.golang.org/protobuf/cmd/protoc-gen-go google.golang.org/grpc/cmd/protoc-gen-go-grpc
mkdir "$work/out"

mapfile -t protos < <(find . -name '*.proto' -not -path './.git/*' -printf '%P\n' | sort)
PATH="$work/bin:$PATH" protoc -I . \
  --go_out="$work/out" --go_opt=paths=source_relative \
  --go-grpc_out="$work/out" --go-grpc_opt=paths=source_relative \
  "${protos[@]}"

changed=0
while IFS= read -r file; do
  if [[ "${1:-}" == --check ]]; then
    cmp -s "$work/out/$file" "$file" || { echo "gen.sh: $file is not what its .proto generates: run scripts/gen.sh" >&2; changed=1; }
  else
    cmp -s "$work/out/$file" "$file" || cp "$work/out/$file" "$file"
  fi
done < <(cd "$work/out" && find . -name '*.go' -printf '%P\n' | sort)
exit "$changed"

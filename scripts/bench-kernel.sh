#!/usr/bin/env bash
# Compares a volume as /dev/nbdN (curve-nbd map, volumes in memory) with nbd-client
# on nbdkit's memory plugin, in one guest, alternating, and prints medians of MiB/s.
#
#   scripts/bench-kernel.sh [ROUNDS [SECONDS]]
set -euo pipefail
cd "$(dirname "$0")/.."
rounds=${1:-5} seconds=${2:-2}

if [[ -z ${CURVE_IN_KERNEL:-} ]]; then
  work=$(mktemp -d /var/tmp/curve-bench.XXXXXX)
  trap 'rm -rf "$work"' EXIT
  CGO_ENABLED=0 go build -o "$work/curve-nbd" ./cmd/curve-nbd
  scripts/e2e-kernel.sh -t 1800 -c "CURVE_NBD=$work/curve-nbd '$PWD/scripts/bench-kernel.sh' $rounds $seconds"
  exit
fi

modprobe nbd nbds_max=4
export CURVE_CONTROL=unix:/run/control.sock
"$CURVE_NBD" serve --memory --nbd-listen unix:/run/ours.sock 2>/run/ours.log &
nbdkit -U /run/peer.sock memory 256M
until "$CURVE_NBD" health >/dev/null 2>&1; do sleep 0.1; done
"$CURVE_NBD" volume create bench --size 256M >/dev/null

attach() { # attach WHO CONNECTIONS -> device
  if [[ $1 == ours ]]; then
    "$CURVE_NBD" map bench --connections "$2"
  else
    nbd-client -unix /run/peer.sock /dev/nbd3 -C "$2" >/dev/null 2>&1
    echo /dev/nbd3
  fi
}
detach() {
  if [[ $1 == ours ]]; then "$CURVE_NBD" unmap bench 2>/dev/null; else nbd-client -d /dev/nbd3 >/dev/null; fi
}
measure() { # measure DEVICE RW BS DEPTH -> KiB/s
  fio --name=b --filename="$1" --rw="$2" --bs="$3" --iodepth="$4" --ioengine=io_uring --direct=1 --size=256M \
    --time_based --runtime="$seconds" --output-format=terse --terse-version=3 | awk -F';' '{print $7 + $48}'
}
median() { sort -n | awk '{a[NR] = $1} END {print a[int((NR + 1) / 2)]}'; }

echo '| workload | connections | curve-nbd map | nbd-client + nbdkit | ratio |'
echo '|---|---|---|---|---|'
for connections in 1 4; do
  for who in ours peer; do # both are written once before anything counts
    device=$(attach "$who" "$connections")
    dd if=/dev/zero of="$device" bs=1M count=256 oflag=direct status=none
    detach "$who"
  done
  for load in 'write 1M 4' 'read 1M 4' 'randwrite 4k 16' 'randread 4k 16' 'randwrite 4k 1' 'randread 4k 1'; do
    : >/run/ours.kib; : >/run/peer.kib
    for ((i = 0; i < rounds; i++)); do
      order='ours peer'
      ((i % 2)) && order='peer ours'
      for who in $order; do
        device=$(attach "$who" "$connections")
        # shellcheck disable=SC2086 # three words
        measure "$device" $load >>"/run/$who.kib"
        detach "$who"
      done
    done
    a=$(median </run/ours.kib) b=$(median </run/peer.kib)
    awk -v l="$load" -v c="$connections" -v a="$a" -v b="$b" \
      'BEGIN {printf "| %s | %d | **%.0f MiB/s** | %.0f MiB/s | %.2fx |\n", l, c, a / 1024, b / 1024, a / b}'
  done
done

#!/usr/bin/env bash
# Serves ./data with a demo volume until Ctrl-C. `make run` builds before.
set -euo pipefail
cd "$(dirname "$0")/.."

bin=bin/curve-nbd
control=unix:$PWD/data/control.sock
socket=$PWD/data/nbd.sock
tcp=127.0.0.1:10809
http=127.0.0.1:9480

"$bin" serve --data-dir ./data --control "$control" \
  --nbd-listen "unix:$socket,tcp:$tcp" --http-listen "$http" &
gateway=$!
# Ctrl-C reaches the gateway too, which drains; this script waits for that.
trap 'kill -TERM "$gateway" 2>/dev/null || true' TERM
trap : INT

until "$bin" health --control "$control" >/dev/null 2>&1; do
  kill -0 "$gateway" 2>/dev/null || { wait "$gateway"; exit; }
  sleep 0.1
done
if ! "$bin" volume info demo --control "$control" >/dev/null 2>&1; then
  "$bin" volume create demo --size 1G --control "$control" >/dev/null
fi

cat <<TEXT

The gateway serves volume demo. Try, in another terminal:
  nbdinfo nbd://$tcp/demo
  qemu-img info nbd://$tcp/demo
  nbdcopy --progress 'nbd+unix:///demo?socket=$socket' demo.img
  fio --name=demo --ioengine=nbd --uri=nbd://$tcp/demo --rw=randrw --size=256m --iodepth=32
  $bin --control $control volume info demo
  curl http://$http/metrics
Ctrl-C stops it; ./data keeps the volume.
TEXT

# wait returns early for every signal that is trapped.
code=0
while kill -0 "$gateway" 2>/dev/null; do
  code=0
  wait "$gateway" || code=$?
done
exit "$code"

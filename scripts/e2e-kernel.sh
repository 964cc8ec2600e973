#!/usr/bin/env bash
# Boots a real Linux kernel (User-mode Linux, Debian's) over this machine's own root
# file system and runs the kernel tests in it: volumes as /dev/nbdN, with file
# systems on them.
#
#   scripts/e2e-kernel.sh [-t SECONDS] [-m MIB] [-i | -s | -c COMMAND] [TEST...]
#
# TESTs are names for go test -run, below TestKernel: all if none is given. -i runs
# TestISCSI instead: the kernel's iSCSI initiator on our target. -c runs a shell command
# in the guest. -s runs TestSystemd, in a guest whose first process is systemd and which
# is booted twice; its files are kept in between. The exit code is the guest's; 124 when
# it took too long, 125 when the guest could not be started.
set -euo pipefail
cd "$(dirname "$0")/.."

limit=900 memory=1536 command='' systemd='' iscsi=''
while getopts t:m:isc: flag; do
  case $flag in
    t) limit=$OPTARG ;;
    m) memory=$OPTARG ;;
    i) iscsi=yes ;;
    s) systemd=yes ;;
    c) command=$OPTARG ;;
    *) exit 125 ;;
  esac
done
shift $((OPTIND - 1))
failed() { echo "e2e-kernel.sh: $*" >&2; exit 125; }

export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
for tool in linux.uml busybox gcc mkfs.ext4 fio; do
  command -v "$tool" >/dev/null || failed "$tool is missing: scripts/deps.sh test installs it"
done
[[ $(id -u) -eq 0 ]] || failed "only root can boot a guest over the root file system"

# The guest sees files outside as they were when it first looked: all that changes
# is in the job's directory. Not in /tmp, which is the guest's own.
job=$(mktemp -d /var/tmp/curve-kernel.XXXXXX)
shm=$(mktemp -d /dev/shm/curve-kernel.XXXXXX)
trap 'rm -rf "$job" "$shm"' EXIT
trap 'exit 143' TERM INT HUP

gcc -O2 -shared -fPIC -o "$job/ptrace-pad.so" scripts/kernel/ptrace-pad.c || failed "cannot compile scripts/kernel/ptrace-pad.c"
cp scripts/kernel/{init,init-systemd} "$job"
chmod +x "$job/init"
CGO_ENABLED=0 go build -o "$job/curve-nbd" ./cmd/curve-nbd
boots=('') disk=() suite=TestKernel program=$job/curve-nbd
if [[ -n $iscsi ]]; then
  command -v iscsid >/dev/null || failed "iscsid is missing: scripts/deps.sh test installs it"
  suite=TestISCSI
fi
if [[ -n $systemd ]]; then
  [[ -x /lib/systemd/systemd && -x /bin/udevadm ]] || failed "systemd or udev is missing: scripts/deps.sh test installs it"
  BINARY=$job/curve-nbd COMPRESSION=none scripts/deb.sh "$job" >/dev/null
  truncate -s 1G "$job/disk"
  mkfs.ext4 -q "$job/disk"
  boots=(boot=1 boot=2) disk=("ubd0=$job/disk") suite=TestSystemd program=curve-nbd # the package's
fi
if [[ -z $command ]]; then
  CGO_ENABLED=0 go test -c -o "$job/kernel.test" ./cmd/curve-nbd/kerneltest
  names=$(IFS='|'; echo "$*")
  command="CURVE_NBD=$program ./kernel.test -test.v -test.timeout=${limit}s -test.run='^$suite\$/(${names:-.})'"
fi
printf '#!/bin/sh\nexport CURVE_IN_KERNEL=1 CURVE_KERNEL_LONG=%s CURVE_ISCSI_PEER=%s\n%s\n' "${CURVE_KERNEL_LONG:-}" "${CURVE_ISCSI_PEER:-}" "$command" >"$job/run"
chmod +x "$job/run"

# boot runs the guest once. The status file is there once its job is done.
boot() {
  rm -f "$job/status"
  TMPDIR=$shm HOME=$job LD_PRELOAD=$job/ptrace-pad.so timeout -k 5 "$limit" \
    linux.uml mem="${memory}M" root=/dev/root rootfstype=hostfs rootflags=/ ro init="$job/init" "${disk[@]}" \
    job="$job" "$@" con=null con0=null,fd:1 quiet loglevel=1 umid="curve-kernel-$$" </dev/null 2>"$job/errors" |
    sed -u -e 's/\r$//' -e '/^reboot: \|^Core dump limits\|^\t\(soft\|hard\) \|^Checking \|^mmapper_init\|^Failed to initialize ubd/d'
}

for each in "${boots[@]}"; do
  code=0
  boot $each || code=$?
  if [[ ! -s $job/status ]]; then
    if [[ -e $job/begun ]] && [[ $code -eq 124 || $code -eq 137 ]]; then
      echo "e2e-kernel.sh: not done within $limit s" >&2
      exit 124
    fi
    cat "$job/errors" >&2
    failed "the guest died with status $code"
  fi
  [[ $(cat "$job/status") -eq 0 ]] || break
  if [[ -n $systemd && $code -ne 0 ]]; then
    echo "e2e-kernel.sh: the guest was not shut down within $limit s" >&2
    exit 124
  fi
done
exit "$(cat "$job/status")"

#!/usr/bin/env bash
# Installs what a target needs and this machine lacks, with apt-get:
#
#   scripts/deps.sh run|test|qemu|bench|iscsi|check
#
# Debian 12 with git, make and Go is the starting point. Quick and silent when
# nothing is missing, so every make target calls it. A "need" is a command to
# look for and the package that brings it.
set -euo pipefail

needs_run=(nbdinfo:libnbd-bin qemu-img:qemu-utils)
needs_test=(
  gcc:gcc                # the race detector needs cgo
  @/usr/include/stdlib.h:libc6-dev
  nbdinfo:libnbd-bin
  nbdfuse:libnbd-bin
  nbd-client:nbd-client
  nbdkit:nbdkit
  qemu-img:qemu-utils
  fio:fio
  mkfs.ext4:e2fsprogs
  mount:mount
  fusermount3:fuse3
  nbdsh:python3-libnbd
  linux.uml:user-mode-linux # the kernel tests
  busybox:busybox-static
  modprobe:kmod
  ip:iproute2
  @/lib/systemd/systemd:systemd
  udevadm:udev
  mkfs.xfs:xfsprogs
  sfdisk:fdisk
  dmsetup:dmsetup
  iscsi-test-cu:libiscsi-bin
  "@/usr/lib/$(uname -m)-linux-gnu/qemu/block-iscsi.so:qemu-block-extra" # iscsi:// for qemu-img
  iscsid:open-iscsi
  multipathd:multipath-tools
)
needs_qemu=( # the guest that boots from a unit, beside what test needs
  qemu-system-x86_64:qemu-system-x86
  cpio:cpio
)
needs_bench=(
  fio:fio nbdkit:nbdkit qemu-nbd:qemu-utils nbdinfo:libnbd-bin python3:python3-minimal
  tgtd:tgt iscsi-perf:libiscsi-bin "@/usr/lib/$(uname -m)-linux-gnu/qemu/block-iscsi.so:qemu-block-extra"
)
needs_iscsi=( # scripts/iscsi-conformance.sh
  tgtd:tgt iscsi-test-cu:libiscsi-bin qemu-img:qemu-utils "@/usr/lib/$(uname -m)-linux-gnu/qemu/block-iscsi.so:qemu-block-extra"
)
needs_check=(protoc:protobuf-compiler)

case "${1:-}" in
  run) needs=("${needs_run[@]}") ;;
  test) needs=("${needs_test[@]}") ;;
  qemu) needs=("${needs_qemu[@]}") ;;
  bench) needs=("${needs_bench[@]}") ;;
  iscsi) needs=("${needs_iscsi[@]}") ;;
  check) needs=("${needs_check[@]}") ;;
  *) echo "usage: scripts/deps.sh run|test|qemu|bench|iscsi|check" >&2; exit 2 ;;
esac

# mkfs and mount live in sbin, which is not on every user's PATH.
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

has() { # has NEED: a command, or @ and a file
  case "$1" in
    @*) [[ -e "${1#@}" ]] ;;
    *) command -v "$1" >/dev/null ;;
  esac
}

missing=()
for need in "${needs[@]}"; do
  has "${need%%:*}" || missing+=("${need##*:}")
done

if ! command -v go >/dev/null; then
  echo "deps.sh: Go is missing: install the version that go.mod names, from https://go.dev/dl" >&2
  exit 1
fi
[[ ${#missing[@]} -eq 0 ]] && exit 0

echo "deps.sh: installing ${missing[*]}" >&2
if ! command -v apt-get >/dev/null; then
  echo "deps.sh: there is no apt-get here: install these by hand: ${missing[*]}" >&2
  exit 1
fi
as_root=()
if [[ $(id -u) -ne 0 ]]; then
  command -v sudo >/dev/null || { echo "deps.sh: neither root nor sudo: install these by hand: ${missing[*]}" >&2; exit 1; }
  as_root=(sudo)
fi
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -f "$log"' EXIT
install() {
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" >"$log" 2>&1
}
# Package lists are missing in a fresh container and stale in an old one.
if ! install; then
  "${as_root[@]}" apt-get update -q >"$log" 2>&1 || { cat "$log" >&2; exit 1; }
  install || { cat "$log" >&2; exit 1; }
fi

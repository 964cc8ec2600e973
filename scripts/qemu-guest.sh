#!/usr/bin/env bash
# Makes what a QEMU guest needs that boots from a volume: Debian's kernel, an initrd with
# the drivers of a paravirtual disk, and a root file system, all from Debian's packages.
#
#   scripts/qemu-guest.sh DIR
#
# leaves DIR/vmlinuz, DIR/initrd and DIR/root.img. The kernel is unpacked below .cache,
# not installed. The exit code is 125 when this machine lacks something.
set -euo pipefail
cd "$(dirname "$0")/.."
[[ $# -eq 1 ]] || { echo "usage: scripts/qemu-guest.sh DIR" >&2; exit 2; }
dir=$1
export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
failed() { echo "qemu-guest.sh: $*" >&2; exit 125; }

for tool in qemu-system-x86_64 busybox cpio depmod modprobe mkfs.ext4 dpkg-deb apt-get apt-cache; do
  command -v "$tool" >/dev/null || failed "$tool is missing: scripts/deps.sh qemu installs it"
done
[[ $(dpkg --print-architecture) == amd64 ]] || failed "the guest is made of this machine's busybox: only amd64 will do"

# The kernel, once.
kernel=.cache/qemu-kernel
if [[ ! -d $kernel ]]; then
  mkdir -p .cache
  fresh=$(mktemp -d .cache/qemu-kernel.XXXXXX)
  trap 'rm -rf "$fresh"' EXIT
  download() {
    # The package of that name is empty and needs the one of today's kernel.
    package=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: \(linux-image-[0-9]\)/\1/p' | head -n 1)
    [[ -n $package ]] || { echo "apt knows no linux-image-cloud-amd64"; return 1; }
    (cd "$fresh" && apt-get download -q "$package")
  }
  # Package lists are missing in a fresh container and stale in an old one.
  if ! download >"$fresh/log" 2>&1; then
    { apt-get update -q && download; } >"$fresh/log" 2>&1 || failed "cannot download a kernel: $(tail -n 1 "$fresh/log")"
  fi
  dpkg-deb -x "$fresh"/*.deb "$fresh"
  rm "$fresh"/*.deb "$fresh/log"
  depmod -b "$fresh" "$(ls "$fresh/lib/modules")"
  mv "$fresh" "$kernel"
fi
release=$(ls "$kernel/lib/modules")
cp "$kernel/boot/vmlinuz-$release" "$dir/vmlinuz"

work=$(mktemp -d)
trap 'rm -rf "$work" ${fresh:+"$fresh"}' EXIT
mkdir -p "$work"/initrd/{bin,dev,modules,proc,root,sys} "$work"/root/{bin,data,dev,proc,run,sbin,sys}
cp "$(command -v busybox)" "$work/initrd/bin/busybox"
cp "$(command -v busybox)" "$work/root/bin/busybox"
install -m 755 scripts/qemu/initrd "$work/initrd/init"
install -m 755 scripts/qemu/init "$work/root/sbin/init"

# The modules, numbered in the order in which they need each other.
n=100
for module in virtio_pci virtio_scsi virtio_blk sd_mod; do
  while read -r _ file _; do
    compgen -G "$work/initrd/modules/*-${file##*/}" >/dev/null || cp "$file" "$work/initrd/modules/$n-${file##*/}"
    n=$((n + 1))
  done < <(modprobe -d "$kernel" -S "$release" --show-depends "$module" | grep '^insmod ')
done
(cd "$work/initrd" && find . | cpio --quiet -o -H newc | gzip -1) >"$dir/initrd"

# A guest may see blocks of 4096 bytes, and then takes no smaller ones on them.
truncate -s 256M "$dir/root.img"
mkfs.ext4 -q -b 4096 -L curve-guest -d "$work/root" "$dir/root.img"

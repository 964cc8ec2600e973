#!/usr/bin/env bash
# Installs curve-nbd on this machine, or, with DESTDIR, into a directory for a package:
#
#   scripts/install.sh [--prefix DIR] [BINARY]     # /usr/local, bin/curve-nbd
#   scripts/install.sh [--prefix DIR] --uninstall
#
# The binary, the systemd units, the udev rule, bash's completion and the manual page go
# below the prefix, settings into /etc/curve, where what is there already stays. A gateway that
# runs is replaced by a hand-over. Uninstalling leaves settings and volumes.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

prefix=/usr/local uninstall='' binary=
while [[ $# -gt 0 ]]; do
  case $1 in
    --prefix) prefix=${2:?--prefix needs a directory} && shift ;;
    --prefix=*) prefix=${1#*=} ;;
    --uninstall) uninstall=yes ;;
    -h | --help) sed -n '2,/^set/{/^#/s/^# \?//p}' "$0"; exit 0 ;;
    -*) echo "install.sh: unknown option $1; see --help" >&2; exit 2 ;;
    *) binary=$1 ;;
  esac
  shift
done
[[ $prefix == /* ]] || { echo "install.sh: --prefix $prefix: give an absolute path" >&2; exit 2; }
prefix=${prefix%/}
: "${DESTDIR:=}" "${binary:=$here/../bin/curve-nbd}"

units=(curve-nbd.service curve-nbd-map.service)
bin=$prefix/bin/curve-nbd
unit_dir=$prefix/lib/systemd/system
rule=$prefix/lib/udev/rules.d/60-curve-nbd.rules
completion=$prefix/share/bash-completion/completions/curve-nbd
manual=$prefix/share/man/man8/curve-nbd.8
etc=/etc/curve

# live: with systemd here, and for this machine.
live() { [[ -z $DESTDIR && -d /run/systemd/system ]]; }
reload_managers() {
  [[ -z $DESTDIR ]] || return 0
  if [[ -e /run/udev/control ]]; then udevadm control --reload; fi
  if live; then systemctl daemon-reload; fi
}
place() { install -D -m "$1" "$2" "$DESTDIR$3"; }

if [[ $uninstall ]]; then
  if live; then
    # Volumes that are in use stop it here.
    if [[ -x $bin ]]; then "$bin" unmap --all --missing-ok; fi
    systemctl disable --now "${units[@]}" 2>/dev/null || true
  fi
  for unit in "${units[@]}"; do rm -f "$DESTDIR$unit_dir/$unit"; done
  rm -f "$DESTDIR$bin" "$DESTDIR$rule" "$DESTDIR$completion" "$DESTDIR$manual"
  reload_managers
  exit 0
fi

[[ -x $binary ]] || { echo "install.sh: there is no program $binary: make build" >&2; exit 1; }
place 0755 "$binary" "$bin.new"
mv -f "$DESTDIR$bin.new" "$DESTDIR$bin" # one that runs keeps its file
for unit in "${units[@]}"; do
  place 0644 /dev/null "$unit_dir/$unit"
  sed "s|@bindir@|$prefix/bin|" "$here/systemd/$unit" >"$DESTDIR$unit_dir/$unit"
done
place 0644 "$here/udev/60-curve-nbd.rules" "$rule"
place 0644 /dev/null "$completion"
"$binary" completion bash >"$DESTDIR$completion"
place 0644 /dev/null "$manual"
"$binary" man >"$DESTDIR$manual"
for file in curve-nbd.yaml curvetab; do
  [[ -e $DESTDIR$etc/$file ]] || place 0644 "$here/etc/$file" "$etc/$file"
done
reload_managers
if live && systemctl --quiet is-active curve-nbd.service; then
  systemctl reload curve-nbd.service
elif live; then
  echo "installed; start it, now and at boot, with: systemctl enable --now ${units[*]}"
fi

#!/usr/bin/env bash
# Builds a Debian package of what install.sh installs, and prints its path:
#
#   scripts/deb.sh [DIRECTORY]      # bin
#
# VERSION overrides what git says, COMPRESSION what dpkg-deb takes (xz), MAINTAINER who
# answers for the package. BINARY is packed rather than built.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-bin}

if [[ -z ${VERSION:-} ]]; then
  # A tag vX.Y, or else what sorts below every version: date, number of commits, commit.
  VERSION=$(git describe --tags --exact-match --match 'v[0-9]*' 2>/dev/null) ||
    VERSION=0~git$(git log -1 --format=%cd --date=format:%Y%m%d).$(git rev-list --count HEAD).$(git rev-parse --short=8 HEAD)
fi
version=${VERSION#v}
arch=$(dpkg --print-architecture)
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct 2>/dev/null || date +%s)
export SOURCE_DATE_EPOCH # the same sources make the same package

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root doc=$work/root/usr/share/doc/curve-nbd
umask 022

binary=${BINARY:-$work/curve-nbd}
[[ -n ${BINARY:-} ]] || CGO_ENABLED=0 go build -trimpath -ldflags='-s -w' -o "$binary" ./cmd/curve-nbd
DESTDIR=$root scripts/install.sh --prefix /usr "$binary"
# The table of what boots is the program's to change, so it is no configuration file of
# dpkg's, which would ask about it: the package makes it when it is not there.
install -D -m 0644 -t "$root/usr/share/curve-nbd" "$root/etc/curve/curvetab"
rm "$root/etc/curve/curvetab"
install -D -m 0644 -t "$doc" README.md DESIGN.md
install -m 0644 scripts/debian/copyright "$doc/copyright"
maintainer=${MAINTAINER:-OpenCurve <opencurve@users.noreply.github.com>}
printf 'curve-nbd (%s) unstable; urgency=medium\n\n  * See the commits.\n\n -- %s  %s\n' "$version" "$maintainer" \
  "$(date -u -R -d "@$SOURCE_DATE_EPOCH")" | gzip -9n >"$doc/changelog.gz"

install -d "$root/DEBIAN"
sed -e "s|@version@|$version|" -e "s|@arch@|$arch|" -e "s|@maintainer@|$maintainer|" \
  -e "s|@size@|$(du -sk --apparent-size --exclude=DEBIAN "$root" | cut -f1)|" scripts/debian/control >"$root/DEBIAN/control"
install -m 0644 scripts/debian/conffiles "$root/DEBIAN/conffiles"
install -m 0755 -t "$root/DEBIAN" scripts/debian/{postinst,prerm,postrm}
(cd "$root" && find . -type f -not -path './DEBIAN/*' -printf '%P\0' | LC_ALL=C sort -z | xargs -0 md5sum >DEBIAN/md5sums)
find "$root" -newermt "@$SOURCE_DATE_EPOCH" -print0 | xargs -0 touch -hd "@$SOURCE_DATE_EPOCH"

mkdir -p "$out"
package=$out/curve-nbd_${version}_$arch.deb
dpkg-deb --root-owner-group -Z"${COMPRESSION:-xz}" --build "$root" "$package" >/dev/null
echo "$package"

#!/bin/sh
# Builds a Debian package for one major version of PostgreSQL: the extension's files and the kernel, where Debian expects them.
# Arguments: the version of Relief, pg_config, the folder that takes the package. Run by `make deb`.
set -eu

version=$1
pg_config=$2
target=$3
# What the headers make of a macro may be a function that minor releases before them lack.
release=$("$pg_config" --version | sed 's/[^0-9]*\([0-9.]*\).*/\1/')
major=${release%%.*}
architecture=$(dpkg --print-architecture)
package=postgresql-$major-relief
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT

make --silent --no-print-directory install install-kernel DESTDIR="$root" PG_CONFIG="$pg_config"
library=$root$("$pg_config" --pkglibdir)/relief_kernel.so
strip --strip-unneeded "$library"
libc=$(objdump -T "$library" | sed -n 's/.*GLIBC_\([0-9.]*\).*/\1/p' | sort -V | tail -1)
install -D -m 644 README.md "$root/usr/share/doc/$package/README.md"
install -D -m 644 CHANGELOG.md "$root/usr/share/doc/$package/changelog"
gzip -9n "$root/usr/share/doc/$package/changelog"
install -D -m 644 LICENSE "$root/usr/share/doc/$package/copyright"
mkdir "$root/DEBIAN"
cat > "$root/DEBIAN/control" <<CONTROL
Package: $package
Version: $version
Architecture: $architecture
Maintainer: Relief
Depends: postgresql-$major (>= $release), postgresql-plpython3-$major, libc6 (>= $libc)
Installed-Size: $(du -ks "$root" | cut -f1)
Section: database
Priority: optional
Description: anomaly detection inside PostgreSQL $major
 Isolation forests, trained outside the server, score rows as they are written and
 in queries. This package holds the extension and its compiled kernel:
 CREATE EXTENSION relief CASCADE, then SELECT relief.use_kernel().
CONTROL
chmod -R u=rwX,go=rX "$root"
dpkg-deb --root-owner-group --build "$root" "$target/${package}_${version}_$architecture.deb" > /dev/null
echo "$target/${package}_${version}_$architecture.deb"

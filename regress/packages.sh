#!/bin/sh
# Installs the Debian packages that are missing among those named, with sudo where not root; says which when it cannot.
#
# `@` in a name stands for the major version of PostgreSQL: that of PG_CONFIG (else of pg_config in the PATH), or the
# distribution's own where none runs.  Where PG_CONFIG is no package's, such packages are not asked for: what they hold must lie
# beside it.
set -eu
if [ "$(id -u)" = 0 ]; then
    as_root=
elif command -v sudo >/dev/null; then
    as_root=sudo
else
    as_root=nobody
fi
fresh=
refresh() {
    [ "$as_root" = nobody ] || [ -n "$fresh" ] || $as_root apt-get update -qq
    fresh=1
}

if bin=$("${PG_CONFIG:-pg_config}" --bindir 2>/dev/null); then
    case $bin in
        /usr/lib/postgresql/*) version=$(basename "$(dirname "$bin")") ;;
        *) version= ;;
    esac
elif [ "${PG_CONFIG:-pg_config}" != pg_config ]; then
    echo "PG_CONFIG=$PG_CONFIG does not run" >&2
    exit 1
else
    refresh
    version=$(apt-cache depends postgresql | sed -n 's/.*Depends: postgresql-\([0-9]*\)$/\1/p')
    [ -n "$version" ] || { echo "which PostgreSQL this distribution has is not known: give PG_CONFIG=the path of one" >&2; exit 1; }
fi

missing=
for name in "$@"; do
    case $name in *@*) [ -n "$version" ] || continue ;; esac
    package=$(echo "$name" | sed "s/@/$version/")
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q '^install ok installed' || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
if [ "$as_root" = nobody ]; then
    echo "these Debian packages are needed, and there is neither root nor sudo to install them:$missing" >&2
    exit 1
fi
echo "installing Debian packages:$missing"
refresh
# shellcheck disable=SC2086 -- one word a package
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null

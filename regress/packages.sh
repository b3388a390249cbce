#!/bin/sh
# Installs the Debian packages that are missing among those named, with sudo where not root; says which when it cannot.
set -eu
missing=
for package in "$@"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q '^install ok installed' || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" = 0 ]; then
    as_root=
elif command -v sudo >/dev/null; then
    as_root=sudo
else
    echo "these Debian packages are needed, and there is neither root nor sudo to install them:$missing" >&2
    exit 1
fi
echo "installing Debian packages:$missing"
$as_root apt-get update -qq
# shellcheck disable=SC2086 -- one word a package
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null

#!/bin/sh
# Runs tests in a tree of another Debian release on this machine's kernel: its Python, its compiler, its tools.
#
#   packaging/tree.sh VENV RELEASE [PYTEST_ARGUMENT...]     releases as in packaging/releases.txt
#
# VENV is a development environment (make setup-dev). The tree is made once, below build/trees, by what it is
# made of; the checkout is seen in it at /licet. Packages come from MIRROR.
set -eu

[ "$(id -u)" = 0 ] || { echo "tree: run as root" >&2 && exit 1; }
venv=$(realpath "$1")
release=$2
shift 2
cd "$(dirname "$0")/.."
root=$PWD
mirror=${MIRROR:-http://deb.debian.org/debian}
case $release in
debian12) suite=bookworm ;;
debian13) suite=trixie ;;
*) echo "tree: no suite is known for $release" >&2 && exit 1 ;;
esac
version=$(sed -n "s/^$release  *deb  *//p" packaging/releases.txt)
packages=$(packaging/setup.sh --list test | paste -sd, -)
# tests ask for these, which every machine has
packages=$packages,ca-certificates,git,kmod,make,procps,shellcheck,xz-utils
libraries=$("$venv/bin/python" -c '
import tomllib
project = tomllib.load(open("pyproject.toml", "rb"))["project"]
print(*project["dependencies"], *project["optional-dependencies"]["test"], sep="\n")')
key=$( (echo "$packages $libraries" && cat packaging/tree.sh) | sha256sum | cut -c1-12)
tree=$root/build/trees/$release-$key

make_tree() {
	fresh=$tree.new
	rm -rf "$fresh" "$root/build/trees/$release"-*
	mkdir -p "$root/build/trees"
	mmdebstrap --quiet --variant=minbase --include="$packages" \
		--dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
		"$suite" "$fresh" "deb $mirror $suite main" "deb $mirror $suite-updates main" \
		"deb $mirror-security $suite-security main"
	site=$fresh/opt/venv/lib/python$version/site-packages
	mkdir -p "$fresh/opt/venv/bin" "$fresh/licet"
	echo "$libraries" >"$fresh/tmp/libraries"
	"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input --no-warn-conflicts \
		--target "$site" --python-version "$version" --implementation cp --only-binary=:all: \
		--platform "manylinux2014_$(uname -m)" --platform "manylinux_2_28_$(uname -m)" \
		--requirement "$fresh/tmp/libraries"
	ln -s "/usr/bin/python$version" "$fresh/opt/venv/bin/python"
	printf 'home = /usr/bin\ninclude-system-site-packages = true\nversion = %s\n' "$version" \
		>"$fresh/opt/venv/pyvenv.cfg"
	echo /licet >"$site/licet.pth"
	printf '#!/opt/venv/bin/python\nfrom agent.cli import main\n\nmain()\n' >"$fresh/opt/venv/bin/licet"
	chmod 755 "$fresh/opt/venv/bin/licet"
	mv "$fresh" "$tree"
}

[ -d "$tree" ] || make_tree
# in a mount namespace of its own: nothing is left mounted, whatever ends this
# shellcheck disable=SC2016 # expanded in there
exec unshare --mount --propagation private sh -eu -c '
	tree=$1 root=$2
	shift 2
	mount --bind "$tree" "$tree"
	mount --rbind "$root" "$tree/licet"
	for folder in proc sys dev run; do
		mount --rbind "/$folder" "$tree/$folder"
	done
	cd "$tree"
	pivot_root . mnt
	umount -l mnt
	cd /licet
	PATH=/usr/sbin:/usr/bin:/sbin:/bin PYTHONDONTWRITEBYTECODE=1 LC_ALL=C.UTF-8 \
		exec /opt/venv/bin/python -m pytest -p no:cacheprovider "$@"
' sh "$tree" "$root" "$@"

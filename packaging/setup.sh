#!/bin/sh
# Installs what licet needs: the distribution's packages from packaging/apt.txt or packaging/dnf.txt (only those
# that are missing) and a virtual environment. Safe to run again.
#
#   packaging/setup.sh VENV [run|test|dev|vm]
#   packaging/setup.sh --list [run|test|dev|vm]    names the packages, installs nothing
#
# Each kind has what those before it have.
# PYTHON overrides the interpreter. The default is the distribution's own, because python3-bpfcc installs
# for that one only, while python3 on PATH may be another (pyenv, conda).
set -eu

venv=$1
kind=${2:-run}
python=${PYTHON:-/usr/bin/python3}
root=$(cd "$(dirname "$0")/.." && pwd)
policy_rc=/usr/sbin/policy-rc.d
if command -v apt-get >/dev/null; then packager=apt; else packager=dnf; fi

fail() {
	echo "setup: $*" >&2
	exit 1
}

wanted_packages() {
	case $kind in
	run) others='# (test|dev|vm)' ;;
	test) others='# (dev|vm)' ;;
	dev) others='# vm' ;;
	vm) others='^#' ;;
	*) fail "no such kind: $kind" ;;
	esac
	grep -v -E "$others" "$root/packaging/$packager.txt" | sed -e 's/#.*//' | tr -d ' \t' | grep .
}

missing_packages() {
	for package in $(wanted_packages); do
		is_installed "$package" || echo "$package"
	done
}

is_installed() {
	case $packager in
	apt) dpkg-query -W -f '${Status}' "$1" 2>/dev/null | grep -q 'ok installed' ;;
	dnf) rpm --quiet -q --whatprovides "$1" ;;
	esac
}

# prometheus is here for promtool: a package's daemon must not start on somebody's host because they ran
# the tests. policy-rc.d is Debian's way to say so; one that exists already is left alone.
install_packages() {
	if [ "$packager" = dnf ]; then
		dnf install -q -y --setopt=install_weak_deps=False "$@"
		return
	fi
	if [ ! -e "$policy_rc" ]; then
		trap 'rm -f "$policy_rc"' EXIT
		printf '#!/bin/sh\nexit 101\n' >"$policy_rc"
		chmod 755 "$policy_rc"
	fi
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -q
	apt-get install -q -y --no-install-recommends "$@"
}

if [ "$venv" = --list ]; then
	wanted_packages
	exit
fi

refuse_old_python() {
	"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
		fail "$python is older than Python 3.11; licet runs on Debian 12, Ubuntu 24.04, RHEL 10 and newer"
}

# before anything is installed: an older distribution has not all of the packages, either
[ ! -x "$python" ] || refuse_old_python

missing=$(missing_packages)
if [ -n "$missing" ]; then
	# one word each from here on
	# shellcheck disable=SC2086
	set -- $missing
	echo "setup: installing $*"
	command -v "$packager" >/dev/null || fail "neither apt-get nor dnf here; install the equivalents of: $*"
	[ "$(id -u)" = 0 ] || fail "not root; run: $packager install $*"
	install_packages "$@"
fi

[ -x "$python" ] || fail "$python is missing; install python3"
refuse_old_python
if [ ! -x "$venv/bin/python" ]; then
	echo "setup: making $venv"
	"$python" -m venv --system-site-packages "$venv"
fi
case $kind in
run) extra= ;;
test) extra='[test]' ;;
*) extra='[dev]' ;;
esac
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input --editable "$root$extra"
"$venv/bin/python" -c 'import bcc' 2>/dev/null ||
	fail "$venv cannot import bcc; it was made without --system-site-packages: remove it and run make setup"

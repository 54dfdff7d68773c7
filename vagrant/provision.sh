#!/bin/sh
# Makes a machine ready to run licet and its tests from this checkout. Every box of the Vagrantfile runs it,
# and so does the image that `make test-vm` boots. Safe to run again.
#
# LICET_VENV is where the virtual environment goes: not into the checkout, which may be shared with a host
# that has another Python.
set -eu

checkout=$(cd "$(dirname "$0")/.." && pwd)
venv=${LICET_VENV:-/opt/licet-venv}

"$checkout/packaging/setup.sh" "$venv" test

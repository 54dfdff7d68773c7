#!/bin/sh
# Every privileged test and the demo, in a machine that provision.sh has made ready. As root.
set -eu
cd "$(dirname "$0")/.."
python=${LICET_VENV:-/opt/licet-venv}/bin/python
"$python" -m pytest -q tests/kernel tests/e2e
"$python" -m tests.e2e.demo

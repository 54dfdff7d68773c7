"""Prints the plain manifest: the chart with its default values, and the namespace that Helm would make."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

RENDER = Path(__file__).parents[1] / "helm" / "render.py"
HELMS = ("managed-by: Helm", "helm.sh/chart:")
HEAD = """\
# Made from packaging/helm/licet by `make manifests`; change it there. Put in your image's name and apply it.
# It observes: nothing is refused. The policy is ConfigMap licet-policy; the agent follows its changes.
apiVersion: v1
kind: Namespace
metadata:
  name: licet
  labels:
    # hostPID, hostNetwork and host paths are what an agent of the node is made of
    pod-security.kubernetes.io/enforce: privileged
"""


def main() -> None:
    done = subprocess.run([sys.executable, RENDER], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    _, _, objects = done.stdout.partition("---\n")
    lines = objects.splitlines(keepends=True)
    sys.stdout.write(
        HEAD + "---\n" + "".join(line for line in lines if not any(map(line.__contains__, HELMS)))
    )


if __name__ == "__main__":
    main()

"""The module name under which 0.1.0 starts loading.observers. The release after 0.2.0 removes it."""

import runpy

if __name__ == "__main__":
    runpy.run_module("agent.kernel.loading.observers", run_name="__main__")

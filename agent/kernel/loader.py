"""The name by which 0.1.0 starts agent.kernel.loading.observers. Goes with the release after 0.2.0."""

import runpy

if __name__ == "__main__":
    runpy.run_module("agent.kernel.loading.observers", run_name="__main__")

"""How mvflow starts itself in another process."""

import sys

__all__ = ["MVFLOW"]

MVFLOW = (sys.executable, "-P", "-m", "mvflow_cli.main")
"""Words before a command's own; -P: a folder `mvflow` in the working directory is not imported."""

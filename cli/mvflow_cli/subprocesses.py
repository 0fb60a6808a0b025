"""How mvflow starts itself in another process."""

import sys

__all__ = ["LOCKED", "MVFLOW"]

LOCKED = 75
"""Exit code of a command that another process keeps from its work (EX_TEMPFAIL: try again)."""

MVFLOW = (sys.executable, "-P", "-m", "mvflow_cli.main")
"""Words before a command's own; -P: a folder `mvflow` in the working directory is not imported."""

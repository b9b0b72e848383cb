"""A child that does nothing until its parent is gone; `--deaf` ignores SIGTERM."""

import signal
import sys
import time

from trimtab.child import leave_with_parent

if __name__ == "__main__":
    if "--deaf" in sys.argv:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    leave_with_parent(int(sys.argv[sys.argv.index("--parent-fd") + 1]))
    time.sleep(600)

"""Where all homes of a user share what is dear to fetch or to make: models, compiled kernels.

Knows nothing of homes and databases, so that an engine can ask without loading them.
"""

import os
from pathlib import Path

from platformdirs import user_cache_path


def user_cache() -> Path:
    """`TRIMTAB_CACHE`, else the folder that the system has for it."""
    named = os.environ.get("TRIMTAB_CACHE")
    return Path(named) if named else user_cache_path("trimtab")

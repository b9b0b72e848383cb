"""What a library raises where nobody expected it, made into an error of ours."""

import logging
import traceback

from trimtab.errors import EngineError

log = logging.getLogger(__name__)


def first_line(error: BaseException) -> str:
    """What a foreign error says, in one line; the second goes with a first that ends in a colon."""
    first, *rest = str(error).strip().splitlines() or [type(error).__name__]
    return f"{first} {rest[0].strip()}" if first.endswith(":") and rest else first


def unexpected(error: Exception) -> EngineError:
    """Logs where it happened."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    message = f"the engine failed: {type(error).__name__}: {first_line(error)}"
    log.error("%s at %s:%s", message, place.filename, place.lineno)
    return EngineError(message, hint="this is a fault of ours; the engine's log says where")

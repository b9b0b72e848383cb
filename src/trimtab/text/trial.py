"""`python -m trimtab.text.trial`: compiles one schema, and dies of it where it takes too much.

Reads what `schema.checked` writes to it; a refusal goes to stdout, with exit code 1.
"""

import json
import resource
import sys

from trimtab.errors import RequestRefused
from trimtab.text.schema import OUT_OF_MEMORY, Vocabulary, compiled, opened

CPU_S = 4
MEMORY = 2 * 2**30


def main() -> int:
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S + 1))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    asked = json.load(sys.stdin)
    told = asked["vocabulary"]
    vocabulary = Vocabulary(told["file"], told["size"], tuple(told["stop_tokens"]))
    try:
        matcher = compiled(asked["schema"], opened(vocabulary))
        # The first mask builds what every later one uses.
        matcher.compute_bitmask()
    except RequestRefused as error:
        sys.stdout.write(error.message)
        return 1
    except MemoryError:
        return OUT_OF_MEMORY
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""A request's words as a project's log keeps them, where it wants them kept (`deploy.log_prompts`).

Keys are masked: somebody may have pasted one into a prompt. Knows nothing of who may read them.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict

from trimtab.gateway.bodies import Asked, ScoreBody
from trimtab.gateway.openai.dialogue import Dialogue
from trimtab.gateway.visit import Visit
from trimtab.journal import words
from trimtab.journal.words import Words
from trimtab.store.clock import now_us

# A key of ours without its secret, and what stands behind the name of a credential.
_SECRETS = re.compile(
    r"(tt_[0-9a-f]{8}_)[A-Za-z0-9_-]{43}|(?i:(\bbearer\s+))[A-Za-z0-9._~+/=-]{16,}"
)

# Characters of a text that are looked at; masked, they are fewer than what is kept seldom enough.
LOOKED_AT = 2 * words.MOST_CHARACTERS
# More than what of a secret can stand there without being known for one.
LONGEST_HALF = 64


def kept(visit: Visit) -> Words | None:
    """The words of a visit that ends now; None where they are not wanted."""
    if visit.words is None:
        return None
    asked, answers = visit.words()
    said = answers[0] if len(answers) == 1 else _json(answers) if answers else ""
    (prompt, left_out), (answer, unsaid), key = beginning(asked), beginning(said), visit.key
    cut = left_out or unsaid
    return words.of(visit.id, key.id, key.owner, prompt, answer, now_us(), cut=cut)


def prompt_of(body: Asked) -> str:
    """The prompt as it came, or turns and what else was asked of them as JSON."""
    if isinstance(body, Dialogue):
        return _json([asdict(turn) for turn in body.turns])
    asked = body.prompt
    if asked is None:
        asked = _json([turn.model_dump() for turn in body.messages or ()])
    if isinstance(body, ScoreBody):
        return _json({"prompt": asked, "completions": body.completions})
    return asked


def beginning(text: str) -> tuple[str, bool]:
    """As much of a text, masked, as may be kept of it, and whether some was left out.

    Where it is cut, a secret is cut as well, and half of one has no form to know it by: it goes.
    """
    if len(text) <= LOOKED_AT:
        return masked(text), False
    return masked(text[:LOOKED_AT])[:-LONGEST_HALF], True


def masked(text: str) -> str:
    """The text without the secrets that can be known by their form."""
    return _SECRETS.sub(lambda found: f"{found[1] or found[2]}***", text)


def _json(value: Sequence[object] | dict[str, object]) -> str:
    return json.dumps(value, ensure_ascii=False)

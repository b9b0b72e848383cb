"""A request's words as a project's log keeps them, where it wants them kept (`deploy.log_prompts`).

Keys are masked: somebody may have pasted one into a prompt. Knows nothing of who may read them.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict

from trimtab.gateway.bodies import Asked, ScoreBody
from trimtab.gateway.dialogue import Dialogue
from trimtab.gateway.visit import Visit
from trimtab.journal import words
from trimtab.journal.words import Words

# A key of ours without its secret, and what stands behind the name of a credential.
_SECRETS = re.compile(
    r"(tt_[0-9a-f]{8}_)[A-Za-z0-9_-]{43}|(?i:(\bbearer\s+))[A-Za-z0-9._~+/=-]{16,}"
)


def kept(visit: Visit, now_us: int) -> Words:
    """The words of a visit that is closed; it has some."""
    assert visit.words is not None
    prompt, answers = visit.words()
    answer = answers[0] if len(answers) == 1 else _json(answers) if answers else ""
    key = visit.key
    return words.of(visit.id, key.id, key.owner, masked(prompt), masked(answer), now_us)


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


def masked(text: str) -> str:
    """The text without the secrets that can be known by their form."""
    return _SECRETS.sub(lambda found: f"{found[1] or found[2]}***", text)


def _json(value: Sequence[object] | dict[str, object]) -> str:
    return json.dumps(value, ensure_ascii=False)

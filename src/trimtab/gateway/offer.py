"""The tools that a dialogue offers, and what an answer made of them."""

import json
from dataclasses import dataclass
from typing import Self

from trimtab.gateway.openai.dialogue import AnswerCall, AnswerFunction, DeltaCall, Dialogue
from trimtab.text import tool_calls
from trimtab.text.tool_calls import Listener, Spoken


@dataclass(frozen=True, slots=True)
class Offer:
    """Calls of these `names` count; where not `parallel`, the first one alone. One that is `due`
    is what the answer begins with."""

    names: frozenset[str]
    parallel: bool
    due: bool

    @classmethod
    def of(cls, body: Dialogue, parallel: bool | None) -> Self | None:
        """None where nothing is offered."""
        if not body.tools:
            return None
        return cls(body.names, parallel is not False, body.choice != "auto")

    def listener(self) -> Listener:
        return Listener(self.names, self.due)

    def read(self, text: str, request: str) -> tuple[str | None, list[AnswerCall] | None]:
        """Text and calls of the whole answer to a request."""
        spoken = tool_calls.read(text, self.names)
        calls = self._calls(spoken, request)
        return (spoken.text or None, calls) if calls else (spoken.text, None)

    def rest(
        self, heard: Listener, text: str, request: str
    ) -> tuple[str | None, list[DeltaCall] | None]:
        """The text that was kept back while it came, and the calls in the whole answer."""
        spoken = heard.end(text)
        calls = [
            DeltaCall(index=place, **call.model_dump())
            for place, call in enumerate(self._calls(spoken, request))
        ]
        return spoken.text or None, calls or None

    def _calls(self, spoken: Spoken, request: str) -> list[AnswerCall]:
        counted = spoken.calls if self.parallel else spoken.calls[:1]
        return [
            AnswerCall(
                # The same answer told again has the same ids.
                id=f"call_{request.removeprefix('req_')}_{place}",
                # In ASCII, since JSON can spell what no text can hold.
                function=AnswerFunction(name=call.name, arguments=json.dumps(call.arguments)),
            )
            for place, call in enumerate(counted)
        ]

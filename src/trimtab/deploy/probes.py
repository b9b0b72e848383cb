"""Golden probes as a package carries them: what the adapter said when training ended.

Training stores token ids alone. A package adds the messages that they came from, so that whoever
serves the version can render them again and see whether the template is still the same one.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from trimtab import inference
from trimtab.canonical import canonical_json
from trimtab.errors import DataError, IdentityError
from trimtab.inference import Calling, Message, Proof, ToolCall, ToolResult
from trimtab.text.chat import ChatFormat


@dataclass(frozen=True, slots=True)
class Probe:
    """One prompt as messages and as tokens, with the log-probability of each completion token."""

    messages: tuple[Message, ...]
    prompt: tuple[int, ...]
    completion: tuple[int, ...]
    logprobs: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Probes:
    """`tolerance` is the largest difference in nats that a token may show elsewhere in float32;
    `dtype` is what they were computed in.
    """

    tolerance: float
    dtype: str
    probes: tuple[Probe, ...]

    def proof(self, count: int | None = None) -> Proof:
        """All of them, or the first `count`, as an engine asks them."""
        probes = (inference.Probe(p.prompt, p.completion, p.logprobs) for p in self.probes[:count])
        return Proof(self.tolerance, tuple(probes), self.dtype)

    def to_json(self) -> bytes:
        return canonical_json(asdict(self))

    @classmethod
    def from_json(cls, data: bytes) -> "Probes":
        """Read a package's file; raises DataError where it is not one."""
        try:
            found = json.loads(data)
            probes = tuple(_probe(row) for row in found["probes"])
            return cls(float(found["tolerance"]), str(found["dtype"]), probes)
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"probes.json of a package cannot be read: {error!r}",
                hint="package the version again from its run",
            ) from None


def with_messages(
    trained: bytes, prompts: Iterable[Sequence[Message]], chat_format: ChatFormat
) -> Probes:
    """The probes that a run left, each with the training prompt that renders to its tokens.

    `trained` is the run's probes.json. Raises IdentityError where no prompt does: then the
    version's template is not the one that it was trained with.
    """
    found = json.loads(trained)
    rendered = {chat_format.prompt_tokens(messages): tuple(messages) for messages in prompts}
    probes = []
    for prompt, completion, logprobs in found["probes"]:
        messages = rendered.get(tuple(prompt))
        if messages is None:
            raise IdentityError(
                "wrong template: it renders no training prompt to the tokens of the golden probes",
                hint="package the version with the template and tokenizer that it was trained with",
            )
        probes.append(Probe(messages, tuple(prompt), tuple(completion), tuple(logprobs)))
    return Probes(found["tolerance"], found["dtype"], tuple(probes))


def _probe(row: dict[str, Any]) -> Probe:
    return Probe(
        messages=tuple(map(_message, row["messages"])),
        prompt=tuple(row["prompt"]),
        completion=tuple(row["completion"]),
        logprobs=tuple(row["logprobs"]),
    )


def _message(fields: dict[str, Any]) -> Message:
    if "calls" in fields:
        calls = tuple(ToolCall(**call) for call in fields["calls"])
        return Calling(fields["role"], fields["content"], calls)
    return ToolResult(**fields) if "call_id" in fields else Message(**fields)

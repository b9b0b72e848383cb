"""A record: one example in one normal form, known by a hash over its content.

The normal form is a dialogue that ends with the answer to learn; beside it may stand the answer
that was rejected for it, or a judgement whether it is good. Where a record came from is kept beside
it and is no part of its hash.
"""

import re
import unicodedata
from dataclasses import dataclass
from typing import Any, Literal

from trimtab.canonical import content_hash
from trimtab.inference import Calling, Message, message_json
from trimtab.text.tool_calls import written

# What a record must hold to be learnt from: an answer; two answers, one preferred; an answer and a
# judgement of it (or a pair, which is two of them); or a prompt whose answer is a yardstick.
Needs = Literal["answer", "preference", "judgement", "prompt"]
# Chinese and Japanese put no spaces between words, so each of their characters counts as one.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+")


@dataclass(frozen=True, slots=True)
class Record:
    """`messages` ends with an assistant turn; `source` and `line` say where it was read.

    `rejected` is the answer that was found worse than the last turn, empty where there is none;
    `label` says whether the last turn was found good, None where nobody judged.
    """

    messages: tuple[Message, ...]
    source: str
    line: int
    rejected: str = ""
    label: bool | None = None

    @property
    def hash(self) -> str:
        turns = [message_json(message) for message in self.messages]
        beside: dict[str, Any] = {}
        if self.rejected:
            beside["rejected"] = self.rejected
        if self.label is not None:
            beside["label"] = self.label
        return content_hash({"messages": turns, **beside} if beside else turns)

    @property
    def answer(self) -> str:
        """The text of the last turn; its calls are written as most templates write them."""
        last = self.messages[-1]
        return written(last) if isinstance(last, Calling) else last.content

    @property
    def prompt(self) -> tuple[Message, ...]:
        return self.messages[:-1]

    @property
    def prompt_hash(self) -> str:
        """Equal for prompts that differ in case, spaces or Unicode form alone."""
        turns = [message_json(message) for message in self.prompt]
        return content_hash([[role, normalise(said), *more] for role, said, *more in turns])

    @property
    def asked(self) -> str:
        """The user's words, for comparing records."""
        return "\n".join(m.content for m in self.prompt if m.role == "user")

    @property
    def place(self) -> str:
        return f"{self.source}:{self.line}"


def normalise(text: str) -> str:
    """Case-folded, NFKC, runs of white space as one space."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def words(text: str) -> list[str]:
    """The words of a text, without case, punctuation, accents and vowel signs."""
    text = normalise(text)
    if not text.isascii():
        # `\w` takes no mark that is a character of its own: it would cut Hindi inside of words.
        text = "".join(c for c in text if not unicodedata.category(c).startswith("M"))
    return _WORD.findall(text)

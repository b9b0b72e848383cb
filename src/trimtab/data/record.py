"""A record: one example in one normal form, known by a hash over its content.

The normal form is a dialogue that ends with the answer to learn. Where a record came from is kept
beside it and is no part of its hash.
"""

import re
import unicodedata
from dataclasses import dataclass

from trimtab.canonical import content_hash
from trimtab.inference import Message

# Chinese and Japanese put no spaces between words, so each of their characters counts as one.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+")


@dataclass(frozen=True, slots=True)
class Record:
    """`messages` ends with an assistant turn; `source` and `line` say where it was read."""

    messages: tuple[Message, ...]
    source: str
    line: int

    @property
    def hash(self) -> str:
        return content_hash([[message.role, message.content] for message in self.messages])

    @property
    def answer(self) -> str:
        return self.messages[-1].content

    @property
    def prompt(self) -> tuple[Message, ...]:
        return self.messages[:-1]

    @property
    def prompt_hash(self) -> str:
        """Equal for prompts that differ in case, spaces or Unicode form alone."""
        return content_hash([[m.role, normalise(m.content)] for m in self.prompt])

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

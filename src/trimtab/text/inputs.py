"""Texts as an encoder reads them: token ids inside the frame that its tokenizer declares."""

from collections.abc import Sequence
from pathlib import Path

from trimtab.errors import DataError
from trimtab.text.tokenizer import Tokenizer


class InputFormat:
    """How an encoder is spoken to. `max_tokens` counts the frame too (BERT's [CLS] and [SEP])."""

    def __init__(self, folder: Path, max_tokens: int) -> None:
        self._tokenizer = Tokenizer(folder)
        self.max_tokens = max_tokens
        self._before, self._behind = self._learn_frame()

    def of_text(self, text: str) -> tuple[int, ...]:
        """The ids of a text in its frame, however many they are."""
        return self.of_tokens(self._tokenizer.encode(text))

    def of_tokens(self, tokens: Sequence[int]) -> tuple[int, ...]:
        """Ids that the caller made itself, in the frame. Raises DataError for one of another
        vocabulary."""
        for token in tokens:
            if not 0 <= token < self._tokenizer.size:
                raise DataError(
                    f"token {token} is not in the encoder's vocabulary of {self._tokenizer.size}",
                    hint="send the text itself, or ids of the encoder's own tokenizer",
                )
        return (*self._before, *tokens, *self._behind)

    def _learn_frame(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """What the tokenizer puts around every text, learnt from a text of one letter."""
        bare = self._tokenizer.encode("a")
        framed = self._tokenizer.encode("a", framed=True)
        start = framed.index(bare[0])
        return tuple(framed[:start]), tuple(framed[start + len(bare) :])

"""Text to token ids and back, over the `tokenizers` library.

Knows nothing of messages or templates; no torch, no transformers.
"""

import json
import re
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import tokenizers

from trimtab.errors import DataError

# What a decoder puts where bytes are not UTF-8, or not yet.
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

METASPACE = "\N{LOWER ONE EIGHTH BLOCK}"
# A byte that has no token of its own, as SentencePiece writes it.
BYTE = re.compile("<0x([0-9A-F]{2})>")


def _alphabet() -> dict[str, int]:
    """The characters that byte-level tokenizers write for bytes: itself where it can be seen, else
    the next of those from 256 on (Radford et al., 2019)."""
    seen = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), 256)]
    hidden = [byte for byte in range(256) if byte not in seen]
    return {chr(byte): byte for byte in seen} | {chr(256 + i): b for i, b in enumerate(hidden)}


BYTES = _alphabet()


class Tokenizer:
    """The tokenizer of a model's folder: `tokenizer.json`, and `tokenizer_config.json` if there.

    Raises DataError where a file is missing or cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        file = folder / "tokenizer.json"
        if not file.is_file():
            raise DataError(f"{file}: no such file", hint="a base needs its tokenizer.json")
        try:
            self._inner = tokenizers.Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises nothing narrower
            raise _unreadable(file, error) from error
        # A tokenizer file may carry settings of its training: cutting and padding are ours.
        self._inner.no_truncation()
        self._inner.no_padding()
        config = read_tokenizer_config(folder)
        self.bos_token = token_text(config.get("bos_token"))
        self.eos_token = token_text(config.get("eos_token"))
        self.pad_token = token_text(config.get("pad_token"))
        added = self._inner.get_added_tokens_decoder()
        self._added = frozenset(added)
        decoder = self._inner.decoder
        self._by_bytes = decoder is not None and b'"ByteLevel"' in decoder.__getstate__()
        self._special = frozenset(number for number, token in added.items() if token.special)

    @property
    def size(self) -> int:
        """Count of ids, added tokens included."""
        return self._inner.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str, framed: bool = False) -> list[int]:
        """Token ids. Special tokens written in the text are parsed as such; none are added, unless
        the text is wanted in the frame that the tokenizer declares."""
        return self._inner.encode(text, add_special_tokens=framed).ids

    def decode(self, ids: Sequence[int], keep_special: bool = False) -> str:
        """Text of the ids; special tokens are left out unless they are asked for."""
        return self._inner.decode(list(ids), skip_special_tokens=not keep_special)

    def bytes_of(self, token: int) -> bytes:
        """What one token stands for, which need not be whole characters; empty for an unknown id.

        A leading space that `decode` drops at the beginning of a text is kept.
        """
        piece = self._inner.id_to_token(token)
        if piece is None:
            return b""
        if token in self._added:
            return piece.encode()
        if self._by_bytes:
            return bytes(BYTES[character] for character in piece)
        if fallen := BYTE.fullmatch(piece):
            return bytes([int(fallen[1], 16)])
        return piece.replace(METASPACE, " ").encode()

    def id_of(self, token: str) -> int | None:
        """The id of one token by its exact text, or None where the vocabulary lacks it."""
        return self._inner.token_to_id(token)

    def is_special(self, token: int) -> bool:
        """Whether the id is a control token, which `decode` leaves out."""
        return token in self._special


_shared: WeakValueDictionary[tuple[object, ...], Tokenizer] = WeakValueDictionary()
_sharing = threading.Lock()


def shared(folder: Path) -> Tokenizer:
    """The tokenizer of a folder, the same for all that hold it: a large vocabulary takes half a
    second and ten megabytes. Raises as `Tokenizer` does.
    """
    files = [folder.resolve() / name for name in ("tokenizer.json", "tokenizer_config.json")]
    states = [file.stat() if file.is_file() else None for file in files]
    key = (*files, *(state and (state.st_mtime_ns, state.st_size) for state in states))
    with _sharing:
        if (known := _shared.get(key)) is None:
            known = _shared[key] = Tokenizer(folder)
        return known


class Detokenizer:
    """Text of a stream of ids, piece by piece.

    Where the ids make valid UTF-8, the pieces joined are `decode` of all ids; no piece ever ends
    inside a character. A fresh one is needed for every stream.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        # Some decoders drop the first token's leading space, so new ids are decoded behind ids
        # whose text is known. These begin and end at a character's edge.
        self._context: list[int] = []
        self._pending: list[int] = []
        self._returned = 0

    def push(self, ids: Iterable[int]) -> str:
        """The text that has become certain with these ids; it may be empty."""
        self._pending += ids
        text = self._text()
        certain = text.rstrip(REPLACEMENT)
        piece = certain[self._returned :]
        if text and certain == text:
            self._context, self._pending, self._returned = self._pending, [], 0
        else:
            self._returned = max(self._returned, len(certain))
        return piece

    def flush(self) -> str:
        """What is left at the end of the stream; unfinished bytes show as U+FFFD."""
        piece = self._text()[self._returned :]
        self._context, self._pending, self._returned = [], [], 0
        return piece

    def _text(self) -> str:
        known = self._tokenizer.decode(self._context)
        return self._tokenizer.decode(self._context + self._pending)[len(known) :]


def read_tokenizer_config(folder: Path) -> dict[str, Any]:
    """`tokenizer_config.json` of a folder, empty where there is none. Raises DataError."""
    file = folder / "tokenizer_config.json"
    try:
        config = json.loads(file.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise _unreadable(file, error) from error
    if not isinstance(config, dict):
        raise _unreadable(file, "not a JSON object")
    return config


def token_text(entry: object) -> str | None:
    """A special token's text: the file writes it as a string, or as an object that holds it."""
    if isinstance(entry, dict):
        entry = entry.get("content")
    return entry if isinstance(entry, str) else None


def _unreadable(file: Path, cause: object) -> DataError:
    return DataError(f"{file}: {str(cause).splitlines()[0]}", hint="fetch the base again")

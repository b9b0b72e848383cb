"""JSON schemas as grammars over text, compiled by llguidance. Knows nothing of models.

A schema comes from a caller, and the compiler of some keywords can be made to work for hours. So
one that is large, or that uses more than the plain keywords, is first compiled in a process of its
own with a bound on its time and memory (`trial`).
"""

import itertools
import json
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimtab.errors import EngineError, RequestRefused

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

MOST = 65536
"""Characters of a schema."""
DEEPEST = 64
"""Objects and lists in each other. The compiler stops at 128, our own walks are recursive."""
SMALL = 4096
"""Up to here a schema of plain keywords compiles in milliseconds."""
PLAIN = frozenset(
    {
        "$schema",
        "$id",
        "$comment",
        "title",
        "description",
        "default",
        "examples",
        "type",
        "enum",
        "const",
        "properties",
        "required",
        "additionalProperties",
        "items",
        "prefixItems",
        "minItems",
        "maxItems",
        "minLength",
        "maxLength",
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "anyOf",
    }
)
TRIAL_S = 30.0
"""Seconds that pass; a trial bounds its processor time by itself."""
OUT_OF_MEMORY = 3
"""The exit code of a trial that Python's own memory error ended. The compiler's aborts."""
TOO_MUCH = {
    -signal.SIGXCPU: "it takes too long to compile",
    OUT_OF_MEMORY: "it takes too much memory",
    -signal.SIGABRT: "it takes too much memory",
    -signal.SIGKILL: "it takes too much memory",
}

# What pretty-printing needs. Without a bound a model may write spaces until its tokens are spent.
OPTIONS = {
    "lenient": False,
    "coerce_one_of": False,
    "whitespace_flexible": True,
    "whitespace_pattern": r"[\x20\x0A\x0D\x09]{1,32}",
}
HINT = "change the schema; docs/guides/sampling.md says what is supported"


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What a grammar is compiled for: a `tokenizer.json`, of which `size` ids have logits. Without
    a file a token is a byte.
    """

    file: str | None = None
    size: int = 257
    stop_tokens: tuple[int, ...] = (256,)


class _Bytes:
    eos_token_id = 256
    bos_token_id = None
    tokens = (*(bytes([byte]) for byte in range(256)), b"<end>")
    special_token_ids = (256,)

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


def opened(vocabulary: Vocabulary) -> "LLTokenizer":
    """Raises RequestRefused where the tokenizer is of a kind that grammars do not work on."""
    from llguidance import LLTokenizer, TokenizerWrapper

    if vocabulary.file is None:
        return LLTokenizer(TokenizerWrapper(_Bytes()), slices=[])
    told = Path(vocabulary.file).read_text(encoding="utf-8")
    stop = list(vocabulary.stop_tokens) or None
    try:
        tokenizer = LLTokenizer(told, eos_token=stop)
        if tokenizer.vocab_size < vocabulary.size:
            tokenizer = LLTokenizer(told, n_vocab=vocabulary.size, eos_token=stop)
    except ValueError as error:
        raise RequestRefused(
            f"schema: this model's tokenizer cannot be held to a grammar: {_line(str(error))}",
            hint="ask without a schema",
        ) from error
    return tokenizer


def compiled(schema: str, tokenizer: "LLTokenizer") -> "LLMatcher":
    """A matcher at its beginning, to be copied. Raises RequestRefused, which names what cannot be
    done. May take long: see `checked`.
    """
    from llguidance import LLMatcher, LLParserLimits

    _parsed(schema)
    try:
        grammar = LLMatcher.grammar_from_json_schema(schema, overrides=OPTIONS)  # type: ignore[arg-type]
    except ValueError as error:
        # Its reader of JSON is stricter than ours: half a surrogate pair, a depth of 128.
        raise refused(str(error)) from error
    limits = LLParserLimits(max_grammar_size=100_000, max_lexer_states=50_000, verbose_errors=False)
    matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=limits)
    if matcher.is_error():
        raise refused(matcher.get_error())
    return matcher


def checked(schema: str, vocabulary: Vocabulary) -> None:
    """Return if the schema compiles within bounds. Raises RequestRefused, and EngineError where
    that cannot be found out.
    """
    if len(schema) <= SMALL and _plain(_parsed(schema)):
        return
    asked = json.dumps({"schema": schema, "vocabulary": asdict(vocabulary)})
    try:
        trial = subprocess.run(
            [sys.executable, "-m", "trimtab.text.trial"],
            input=asked.encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=TRIAL_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise refused("it takes too long to compile") from None
    if trial.returncode == 1 and trial.stdout:
        raise RequestRefused(trial.stdout.decode(), hint=HINT)
    if why := TOO_MUCH.get(trial.returncode):
        raise refused(why)
    if trial.returncode:
        raise EngineError(
            f"schema: the process that tries it ended with {trial.returncode}",
            hint="python -m trimtab.text.trial must run on this machine",
        )


def satisfies(schema: str, text: str) -> bool:
    """Whether a JSON text satisfies a schema; the order of its keys does not matter.

    Raises RequestRefused for a schema that cannot be compiled.
    """
    checked(schema, Vocabulary())
    start = compiled(schema, opened(Vocabulary()))
    try:
        value = json.loads(text)
        orders = (value, _ordered(value, json.loads(schema)))
        texts = [json.dumps(told, ensure_ascii=False) for told in orders]
    except (ValueError, RecursionError):
        return False
    return any(_accepts(start, told) for told in texts)


def refused(why: str) -> RequestRefused:
    # The library's own assertions are bounds of its data structures.
    if why.startswith("panic"):
        why = "it is too large"
    return RequestRefused(f"schema: {_line(why)}", hint=HINT)


def _accepts(start: "LLMatcher", text: str) -> bool:
    matcher, told = start.deep_copy(), list(text.encode(errors="replace"))
    return matcher.try_consume_tokens(told) == len(told) and matcher.is_accepting()


def _ordered(value: Any, schema: Any) -> Any:
    """The value with its keys in the order in which the schema names them: a grammar has one."""
    if not isinstance(schema, dict):
        return value
    if isinstance(value, list):
        return [_ordered(item, schema.get("items")) for item in value]
    named = schema.get("properties")
    if not isinstance(value, dict) or not isinstance(named, dict):
        return value
    first = {name: _ordered(value[name], named[name]) for name in named if name in value}
    return first | {name: value[name] for name in value if name not in first}


def _parsed(schema: str) -> dict[str, Any]:
    if len(schema) > MOST:
        raise refused(f"it is {len(schema)} characters long, {MOST} are allowed")
    try:
        parsed = json.loads(schema)
    except (ValueError, RecursionError) as error:
        raise refused(f"not JSON: {_line(str(error))}") from error
    if not isinstance(parsed, dict):
        raise refused("it must be an object")
    if (depth := _depth(parsed)) > DEEPEST:
        raise refused(f"it is {depth} levels deep, {DEEPEST} are allowed")
    return parsed


def _depth(parsed: Any) -> int:
    level, depth = [parsed], 0
    while level := [each for each in level if isinstance(each, dict | list)]:
        inner = (each.values() if isinstance(each, dict) else each for each in level)
        level, depth = list(itertools.chain.from_iterable(inner)), depth + 1
    return depth


def _plain(schema: Any) -> bool:
    """Whether only keywords are used whose compilation does not multiply."""
    if isinstance(schema, list):
        return all(map(_plain, schema))
    if not isinstance(schema, dict):
        return True
    for keyword, value in schema.items():
        if keyword not in PLAIN:
            return False
        if keyword in ("enum", "const", "default", "examples"):
            continue
        # The keys under `properties` are names, not keywords.
        inner = (
            list(value.values()) if keyword == "properties" and isinstance(value, dict) else value
        )
        if not _plain(inner):
            return False
    return True


def _line(why: str) -> str:
    return " ".join(why.split())[:300]

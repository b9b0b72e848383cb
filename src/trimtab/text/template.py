"""A model's chat template: messages to one text.

Renders as transformers' `apply_chat_template` does, in a sandbox with limits. Knows nothing of
tokens.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from jinja2.exceptions import TemplateError

from trimtab.errors import DataError
from trimtab.inference import Calling, Message, ToolCall, ToolResult
from trimtab.text.allowance import step_budget
from trimtab.text.sandbox import TemplateSandbox
from trimtab.text.tokenizer import read_tokenizer_config, token_text

MAX_SOURCE = 200_000
MAX_OUTPUT = 4_000_000
# Ours, for bases that were never spoken to.
TEMPLATES = Path(__file__).parent / "templates"
_PROBE = "tool_named_by_nobody"
_PROBE_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": _PROBE,
        "description": "",
        "parameters": {"type": "object", "properties": {}},
    },
}


class ChatTemplate:
    """A compiled template. Raises DataError where the source is no template or is too long."""

    def __init__(
        self, source: str, bos_token: str | None = None, eos_token: str | None = None
    ) -> None:
        if len(source) > MAX_SOURCE:
            raise DataError(
                f"the chat template has {len(source)} characters, more than {MAX_SOURCE}",
                hint="use a base with a plain chat template",
            )
        self.source = source
        # A token that the tokenizer lacks stays undefined, as it does in transformers.
        tokens = {"bos_token": bos_token, "eos_token": eos_token}
        self._tokens = {name: token for name, token in tokens.items() if token is not None}
        try:
            self._template = TemplateSandbox().from_source(source)
        except (TemplateError, RecursionError) as error:
            raise DataError(
                f"the chat template cannot be read: {error}", hint="mend the base's template"
            ) from error

    @classmethod
    def from_folder(cls, folder: Path, source: str | None = None) -> "ChatTemplate":
        """The template of a model's folder: `chat_template.jinja`, else the tokenizer's config.

        A `source` takes its place; the special tokens are the folder's all the same.
        """
        config = read_tokenizer_config(folder)
        source = source or _source_in(folder) or _default_template(config)
        if not source:
            raise DataError(
                f"{folder}: the base has no chat template",
                hint="take an instruction-tuned base, or set data.template",
            )
        return cls(source, token_text(config.get("bos_token")), token_text(config.get("eos_token")))

    @cached_property
    def knows_tools(self) -> bool:
        """Whether it writes down the tools that are offered; one that does not drops them."""
        try:
            return _PROBE in self.render([Message("user", "a")], tools=[_PROBE_TOOL])
        except DataError:
            return False

    @cached_property
    def knows_calls(self) -> bool:
        """Whether it writes down the calls of an assistant's turn."""
        call = ToolCall("callprobe", _PROBE, {})
        answered = [Calling("assistant", "", (call,)), ToolResult("tool", "b", "callprobe")]
        try:
            return _PROBE in self.render([Message("user", "a"), *answered], tools=[_PROBE_TOOL])
        except DataError:
            return False

    def render(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool = False,
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> str:
        """The dialogue as one text, with the opening of the assistant's turn where asked.

        `tools` are what OpenAI's API calls so. Raises DataError with the template's own words where
        it refuses the messages, and where it would not end.
        """
        turns = [_turn(message) for message in messages]
        offered = list(tools) or None
        # transformers passes these two as None, which is not the same as undefined.
        values = {**self._tokens, "messages": turns, "tools": offered, "documents": None}
        pieces: list[str] = []
        length = 0
        try:
            with step_budget():
                for piece in self._template.generate(
                    values, add_generation_prompt=add_generation_prompt
                ):
                    pieces.append(piece)
                    length += len(piece)
                    if length > MAX_OUTPUT:
                        raise TemplateError(f"it makes more than {MAX_OUTPUT} characters")
        except (TemplateError, TypeError, ValueError, ArithmeticError, RecursionError) as error:
            raise DataError(
                f"the chat template refuses these messages: {error}",
                hint="see which roles and which order the base's template takes",
            ) from error
        return "".join(pieces)


def source_of(name: str, root: Path) -> str:
    """The source of a template that a project names: one of ours, or a file under `root`.

    Raises DataError for a name that is neither.
    """
    ours = {file.stem: file for file in sorted(TEMPLATES.glob("*.jinja"))}
    file = ours.get(name, root / name)
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise DataError(
            f"data.template: {name!r} is no template",
            hint=f"known: {', '.join(ours)}; or a file of UTF-8 beside the project",
        ) from None


def _turn(message: Message) -> dict[str, Any]:
    """A message as transformers hands it to a template."""
    turn: dict[str, Any] = {"role": message.role, "content": message.content}
    if isinstance(message, Calling):
        turn["tool_calls"] = [
            {
                "type": "function",
                "id": call.id,
                "function": {"name": call.name, "arguments": dict(call.arguments)},
            }
            for call in message.calls
        ]
    elif isinstance(message, ToolResult):
        turn["tool_call_id"] = message.call_id
    return turn


def _source_in(folder: Path) -> str:
    file = folder / "chat_template.jinja"
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: {error}", hint="fetch the base again") from error


def _default_template(config: dict[str, object]) -> str:
    """The field is one template, or a list of named ones of which 'default' is meant."""
    field = config.get("chat_template")
    if isinstance(field, list):
        named = {e.get("name"): e.get("template") for e in field if isinstance(e, dict)}
        field = named.get("default")
    return field if isinstance(field, str) else ""

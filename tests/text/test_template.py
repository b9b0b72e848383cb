import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.tiny import CHAT_TEMPLATE
from trimtab.errors import DataError
from trimtab.inference import Message
from trimtab.text.template import ChatTemplate

LLAMA_3 = """{{- bos_token }}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}
    {{- "Environment: ipython\\n" }}
{%- endif %}
{{- system_message + "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
    {{- message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
GEMMA = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}
{{ raise_exception('System role not supported') }}{% endif %}
{% for message in messages %}
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
{% endif %}
{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}
{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}
{% endfor %}
{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"""
MISTRAL = """{{- bos_token }}
{%- set ns = namespace(system="") %}
{%- for message in messages %}
    {%- if message.role == "system" %}{% set ns.system = message.content %}{% continue %}{% endif %}
    {%- if message.role == "user" %}
        {{- "[INST] " ~ (ns.system ~ "\\n\\n" if ns.system and loop.last) ~ message.content }}
        {{- "[/INST]" }}
    {%- elif message.role == "assistant" %}
        {{- " " ~ message.content ~ eos_token }}
    {%- else %}
        {{- raise_exception("only user and assistant roles are supported, not " ~ message.role) }}
    {%- endif %}
{%- endfor %}
"""
QWEN = """{%- if messages[0].role != 'system' %}
    {{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(last_query=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if message.role == "user" and not message.content.startswith('<tool>') %}
        {%- set ns.last_query = index %}{% break %}
    {%- endif %}
{%- endfor %}
{%- macro turn(role, content) %}<|im_start|>{{ role }}
{{ content.split('</think>')[-1].lstrip('\\n') }}<|im_end|>
{% endmacro %}
{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {% generation %}{{ turn(message.role, message.content) }}{% endgeneration %}
    {%- else %}{{ turn(message.role, message.content) }}{% endif %}
{%- endfor %}
{{- {'query': ns.last_query, 'ü': '<b>'} | tojson(indent=2) }}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% endif %}
"""
TEMPLATES = {
    "chatml": CHAT_TEMPLATE,
    "llama": LLAMA_3,
    "gemma": GEMMA,
    "mistral": MISTRAL,
    "qwen": QWEN,
}
QUESTION = [Message("user", "  Größe <b>?\n"), Message("assistant", "Yes.\n\n")]
DIALOGUES = {
    "question": QUESTION[:1],
    "answer": QUESTION,
    "turns": [*QUESTION, Message("user", "你好 {{ 1 }} {% x %}"), Message("assistant", "🙂")],
    "system": [Message("system", "Be brief.  "), *QUESTION],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer of bytes alone, in the layout of the Hub."""
    path = tmp_path_factory.mktemp("base")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={byte: i for i, byte in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.save(str(path / "tokenizer.json"))
    config = {"bos_token": "<s>", "eos_token": "</s>"}
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    return path


@pytest.mark.parametrize("generation_prompt", [False, True])
@pytest.mark.parametrize(
    ("name", "dialogue"),
    # Gemma's template refuses a system message.
    [pair for pair in product(TEMPLATES, DIALOGUES) if pair != ("gemma", "system")],
)
def test_it_renders_as_transformers_does(
    folder: Path, name: str, dialogue: str, generation_prompt: bool
) -> None:
    messages = DIALOGUES[dialogue]
    theirs = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), bos_token="<s>", eos_token="</s>"
    )
    expected = theirs.apply_chat_template(
        [{"role": message.role, "content": message.content} for message in messages],
        chat_template=TEMPLATES[name],
        add_generation_prompt=generation_prompt,
        tokenize=False,
    )

    template = ChatTemplate(TEMPLATES[name], bos_token="<s>", eos_token="</s>")

    assert template.render(messages, generation_prompt) == expected


def test_a_template_may_insert_its_own_system_message() -> None:
    rendered = ChatTemplate(QWEN).render(QUESTION[:1])

    assert rendered.startswith("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n")


def test_a_refusal_carries_the_templates_words() -> None:
    with pytest.raises(DataError, match="System role not supported") as refused:
        ChatTemplate(GEMMA).render(DIALOGUES["system"])

    assert refused.value.hint


def test_it_is_read_from_its_own_file_first(tmp_path: Path) -> None:
    _configure(tmp_path, {"chat_template": "config", "bos_token": "<s>"})
    assert ChatTemplate.from_folder(tmp_path).source == "config"

    (tmp_path / "chat_template.jinja").write_text("{{ bos_token }}file é", encoding="utf-8")

    assert ChatTemplate.from_folder(tmp_path).render([]) == "<s>file é"


def test_special_tokens_may_be_objects(tmp_path: Path) -> None:
    tokens = {"bos_token": {"content": "<s>"}, "eos_token": {"content": "</s>"}}
    _configure(tmp_path, {"chat_template": "{{ bos_token ~ eos_token }}", **tokens})

    assert ChatTemplate.from_folder(tmp_path).render([]) == "<s></s>"


def test_of_several_templates_the_default_is_meant(tmp_path: Path) -> None:
    named = [{"name": "rag", "template": "a"}, {"name": "default", "template": "b"}]
    _configure(tmp_path, {"chat_template": named})

    assert ChatTemplate.from_folder(tmp_path).source == "b"


@pytest.mark.parametrize("template", [None, 7, [], [{"name": "rag", "template": "a"}]])
def test_a_folder_without_a_template_is_refused(tmp_path: Path, template: object) -> None:
    _configure(tmp_path, {"chat_template": template})

    with pytest.raises(DataError, match="no chat template") as refused:
        ChatTemplate.from_folder(tmp_path)

    assert "instruct" in refused.value.hint


def test_a_template_file_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff\xfe")

    with pytest.raises(DataError, match=r"chat_template\.jinja"):
        ChatTemplate.from_folder(tmp_path)


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("{% for m in messages %}\n{{ m.content }\n{% endfor %}", 2),
        ("a\nb\n{% if x %}", 3),
        ("{{ 'a' | nothing_such }}", 1),
        ("{% unknown %}", 1),
    ],
)
def test_broken_syntax_names_its_line(source: str, line: int) -> None:
    with pytest.raises(DataError, match=f"line {line}") as broken:
        ChatTemplate(source)

    assert "\n" not in broken.value.message


def test_a_filter_that_is_refused_may_stand_where_it_is_not_called() -> None:
    source = "{% if tools %}{{ '%s' | format(1) }}{% endif %}a"

    assert ChatTemplate(source).render([]) == "a"


def test_a_template_of_a_megabyte_is_refused() -> None:
    with pytest.raises(DataError, match="characters"):
        ChatTemplate("a" * 1_000_000)


def test_a_long_dialogue_is_no_attack() -> None:
    messages = [
        Message("user" if turn % 2 == 0 else "assistant", f"{turn} word " * 100)
        for turn in range(1_000)
    ]

    assert len(ChatTemplate(QWEN).render(messages)) > 800_000


def _configure(folder: Path, config: dict[str, Any]) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps(config))

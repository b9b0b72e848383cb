"""Golden masks: what carries loss under the templates of eight families, written out by hand.

Each family is its own facts (special tokens, and how a dialogue is laid out), not a copy of its
file. `<<` and `>>` stand around what is learnt of the last answer.
"""

import json
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from trimtab.errors import DataError
from trimtab.inference import Calling, Message, ToolCall, ToolResult
from trimtab.text.chat import ChatFormat
from trimtab.train.lesson import Lesson
from trimtab.train.order import packed_rows
from trimtab.train.preflight import preflight
from trimtab.train.rows import Example

DIALOGUE = (
    Message("system", "Be brief."),
    Message("user", "Why?"),
    Message("assistant", "So."),
    Message("user", "And how?"),
    Message("assistant", "Like this."),
)
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@dataclass(frozen=True)
class Family:
    specials: tuple[str, ...]
    eos: str
    template: str
    golden: str


FAMILIES = {
    "chatml": Family(
        ("<|im_start|>", "<|im_end|>"),
        "<|im_end|>",
        CHATML,
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n"
        "<|im_start|>assistant\nSo.<|im_end|>\n<|im_start|>user\nAnd how?<|im_end|>\n"
        "<|im_start|>assistant\n<<Like this.<|im_end|>>>\n",
    ),
    "smollm2": Family(
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        "<|im_end|>",
        "{% for m in messages %}{% if loop.first and m.role != 'system' %}"
        "{{ '<|im_start|>system\nYou are SmolLM.<|im_end|>\n' }}{% endif %}"
        + CHATML.removeprefix("{% for m in messages %}"),
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n"
        "<|im_start|>assistant\nSo.<|im_end|>\n<|im_start|>user\nAnd how?<|im_end|>\n"
        "<|im_start|>assistant\n<<Like this.<|im_end|>>>\n",
    ),
    "qwen2.5": Family(
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        "<|endoftext|>",
        CHATML,
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n"
        "<|im_start|>assistant\nSo.<|im_end|>\n<|im_start|>user\nAnd how?<|im_end|>\n"
        "<|im_start|>assistant\n<<Like this.<|im_end|>>>\n",
    ),
    # It writes thinking into the last turn alone, empty where there was none: that is learnt too.
    "qwen3": Family(
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        "<|im_end|>",
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
        "{% if m.role == 'assistant' and loop.last %}"
        "{{ '<think>\n\n</think>\n\n' }}{% endif %}{{ m.content + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n"
        "<|im_start|>assistant\nSo.<|im_end|>\n<|im_start|>user\nAnd how?<|im_end|>\n"
        "<|im_start|>assistant\n<<<think>\n\n</think>\n\nLike this.<|im_end|>>>\n",
    ),
    "llama-3": Family(
        (
            "<|begin_of_text|>",
            "<|start_header_id|>",
            "<|end_header_id|>",
            "<|eot_id|>",
            "<|end_of_text|>",
        ),
        "<|end_of_text|>",
        "{{ '<|begin_of_text|>' }}{% for m in messages %}{{ '<|start_header_id|>' + m.role + "
        "'<|end_header_id|>\n\n' + m.content + '<|eot_id|>' }}{% endfor %}"
        "{% if add_generation_prompt %}"
        "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nWhy?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nSo.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nAnd how?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n<<Like this.<|eot_id|>>>",
    ),
    "mistral": Family(
        ("<s>", "</s>", "[INST]", "[/INST]"),
        "</s>",
        "{{ '<s>' }}"
        "{% set system = messages[0].content if messages[0].role == 'system' else '' %}"
        "{% for m in messages if m.role != 'system' %}{% if m.role == 'user' %}{{ '[INST] ' }}"
        "{% if loop.first and system %}{{ system + '\n\n' }}{% endif %}"
        "{{ m.content + '[/INST]' }}{% else %}{{ ' ' + m.content + '</s>' }}{% endif %}"
        "{% endfor %}",
        "<s>[INST] Be brief.\n\nWhy?[/INST] So.</s>[INST] And how?[/INST]<< Like this.</s>>>",
    ),
    "gemma": Family(
        ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"),
        "<eos>",
        "{{ '<bos>' }}"
        "{% set system = messages[0].content if messages[0].role == 'system' else '' %}"
        "{% for m in messages if m.role != 'system' %}{{ '<start_of_turn>' + "
        "('model' if m.role == 'assistant' else m.role) + '\n' }}"
        "{% if loop.first and system %}{{ system + '\n\n' }}{% endif %}"
        "{{ m.content + '<end_of_turn>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}",
        "<bos><start_of_turn>user\nBe brief.\n\nWhy?<end_of_turn>\n"
        "<start_of_turn>model\nSo.<end_of_turn>\n<start_of_turn>user\nAnd how?<end_of_turn>\n"
        "<start_of_turn>model\n<<Like this.<end_of_turn>>>\n",
    ),
    "phi": Family(
        ("<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
        "<|endoftext|>",
        "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}",
        "<|system|>\nBe brief.<|end|>\n<|user|>\nWhy?<|end|>\n<|assistant|>\nSo.<|end|>\n"
        "<|user|>\nAnd how?<|end|>\n<|assistant|>\n<<Like this.<|end|>>>\n",
    ),
    "deepseek": Family(
        ("<begin>", "<end>", "<User>", "<Assistant>"),
        "<end>",
        "{{ '<begin>' }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}"
        "{% elif m.role == 'user' %}{{ '<User>' + m.content }}{% else %}"
        "{{ '<Assistant>' + m.content + '<end>' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<Assistant>' }}{% endif %}",
        "<begin>Be brief.<User>Why?<Assistant>So.<end><User>And how?<Assistant><<Like this.<end>>>",
    ),
}


WEATHER = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}},
}
TOOLS = Message("tools", json.dumps([WEATHER]))
CALLED = ToolCall("c1", "weather", {"city": "Rome"})
# What a template of tools writes: the offer in the system turn, calls and results in turns.
WITH_TOOLS = {
    "hermes": Family(
        ("<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>"),
        "<|im_end|>",
        "{% if tools %}{{ '<|im_start|>system\n' }}{% for tool in tools %}{{ tool | tojson }}"
        "{% endfor %}{{ '<|im_end|>\n' }}{% endif %}"
        "{% for m in messages %}{% if m.role == 'tool' %}"
        "{{ '<|im_start|>user\n<tool_response>\n' + m.content + '\n</tool_response>' }}"
        "{% else %}{{ '<|im_start|>' + m.role + '\n' + m.content }}{% endif %}"
        '{% for call in m.tool_calls or [] %}{{ \'<tool_call>\n{"name": "\' + '
        'call.function.name + \'", "arguments": \' }}{{ call.function.arguments | tojson }}'
        "{{ '}\n</tool_call>' }}{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
        "<|im_start|>system\n" + json.dumps(WEATHER) + "<|im_end|>\n"
        "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n",
    ),
    "llama-3.1": Family(
        ("<|start|>", "<|end|>", "<|eot_id|>"),
        "<|eot_id|>",
        "{% if tools %}{{ '<|start|>system<|end|>\n' }}{% for tool in tools %}"
        "{{ tool | tojson }}{% endfor %}{{ '<|eot_id|>' }}{% endif %}"
        "{% for m in messages %}"
        "{{ '<|start|>' + ('ipython' if m.role == 'tool' else m.role) + '<|end|>\n' }}"
        "{% if m.tool_calls %}{% set call = m.tool_calls[0].function %}"
        '{{ \'{"name": "\' + call.name + \'", "parameters": \' }}{{ call.arguments | tojson }}'
        "{{ '}' }}{% else %}{{ m.content }}{% endif %}{{ '<|eot_id|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start|>assistant<|end|>\n' }}{% endif %}",
        "<|start|>system<|end|>\n" + json.dumps(WEATHER) + "<|eot_id|>"
        "<|start|>user<|end|>\nWhy?<|eot_id|><|start|>assistant<|end|>\n",
    ),
    # Tools are offered before the last question, and calls are a list with their ids.
    "mistral": Family(
        (
            *("<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"),
            *("[TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"),
        ),
        "</s>",
        "{{ '<s>' }}{% set asked = messages | selectattr('role', 'equalto', 'user') | list %}"
        "{% for m in messages %}{% if m.role == 'user' %}{% if tools and m == asked[-1] %}"
        "{{ '[AVAILABLE_TOOLS] ' }}{{ tools | tojson }}{{ '[/AVAILABLE_TOOLS]' }}{% endif %}"
        "{{ '[INST] ' + m.content + '[/INST]' }}{% elif m.tool_calls %}{{ '[TOOL_CALLS] [' }}"
        "{% for call in m.tool_calls %}"
        '{{ \'{"name": "\' + call.function.name + \'", "arguments": \' }}'
        "{{ call.function.arguments | tojson }}{{ ', \"id\": \"' + call.id + '\"}' }}"
        "{% if not loop.last %}{{ ', ' }}{% endif %}{% endfor %}{{ ']</s>' }}"
        "{% elif m.role == 'tool' %}"
        "{{ '[TOOL_RESULTS] {\"content\": ' }}{{ m.content | tojson }}"
        "{{ ', \"call_id\": \"' + m.tool_call_id + '\"}[/TOOL_RESULTS]' }}"
        "{% else %}{{ ' ' + m.content + '</s>' }}{% endif %}{% endfor %}",
        "<s>[AVAILABLE_TOOLS] [" + json.dumps(WEATHER) + "][/AVAILABLE_TOOLS][INST] Why?[/INST]",
    ),
    # Behind what a tool says the answer begins at once, without a marker of whose turn it is.
    "deepseek": Family(
        ("<begin>", "<end>", "<User>", "<Assistant>", "<calls>", "</calls>", "<sep>", "<out>"),
        "<end>",
        "{{ '<begin>' }}{% for tool in tools or [] %}{{ tool | tojson }}{% endfor %}"
        "{% for m in messages %}{% if m.role == 'user' %}{{ '<User>' + m.content }}"
        "{% elif m.role == 'tool' %}{{ '<out>' + m.content + '<out>' }}{% else %}"
        "{% if loop.previtem.role == 'user' %}{{ '<Assistant>' }}{% endif %}"
        "{% if m.tool_calls %}{{ '<calls>' }}{% for call in m.tool_calls %}"
        "{{ 'function<sep>' + call.function.name + '\n```json\n' }}"
        "{{ call.function.arguments | tojson }}{{ '\n```' }}{% endfor %}{{ '</calls>' }}"
        "{% else %}{{ m.content }}{% endif %}{{ '<end>' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt and messages[-1].role == 'user' %}{{ '<Assistant>' }}"
        "{% endif %}",
        "<begin>" + json.dumps(WEATHER) + "<User>Why?<Assistant>",
    ),
}
LEARNT = {
    "hermes": (
        '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call><|im_end|>',
        "<|im_end|>\n<|im_start|>user\n<tool_response>\nsun\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n",
        "It is sunny.<|im_end|>",
    ),
    "llama-3.1": (
        '{"name": "weather", "parameters": {"city": "Rome"}}<|eot_id|>',
        "<|eot_id|><|start|>ipython<|end|>\nsun<|eot_id|><|start|>assistant<|end|>\n",
        "It is sunny.<|eot_id|>",
    ),
    "mistral": (
        '[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Rome"}, "id": "c1"}]</s>',
        '</s>[TOOL_RESULTS] {"content": "sun", "call_id": "c1"}[/TOOL_RESULTS]',
        " It is sunny.</s>",
    ),
    "deepseek": (
        '<calls>function<sep>weather\n```json\n{"city": "Rome"}\n```</calls><end>',
        "<end><out>sun<out>",
        "It is sunny.<end>",
    ),
}


@pytest.mark.parametrize("name", WITH_TOOLS)
def test_a_call_is_learnt_and_what_a_tool_says_is_not(name: str, tmp_path: Path) -> None:
    family, (call, between, answer) = WITH_TOOLS[name], LEARNT[name]
    chat = format_of(family, tmp_path)
    asked = (TOOLS, Message("user", "Why?"), Calling("assistant", "", (CALLED,)))
    told = (*asked, ToolResult("tool", "sun", "c1"), Message("assistant", "It is sunny."))
    calls, tells = preflight(chat, [Lesson(asked), Lesson(told)], 512).examples

    def text(tokens: tuple[int, ...]) -> str:
        return chat.tokenizer.decode(tokens, keep_special=True)

    assert text(calls.prompt) == text(tells.prompt)[: len(family.golden)] == family.golden
    assert text(calls.completion) == call
    assert text(tells.completion) == answer
    whole = family.golden + call.removesuffix(family.eos) + between
    assert text(tells.prompt) == whole


def test_a_template_that_would_drop_tools_is_refused(tmp_path: Path) -> None:
    chat = format_of(FAMILIES["chatml"], tmp_path)
    asked = (TOOLS, Message("user", "Why?"), Message("assistant", "So."))
    with pytest.raises(DataError, match="training record 0: the chat template writes no tools"):
        preflight(chat, [Lesson(asked)], 512)


def format_of(family: Family, folder: Path) -> ChatFormat:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=[AddedToken(token, special=True) for token in family.specials],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([m.content for m in DIALOGUE], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": family.eos}))
    return ChatFormat.from_folder(folder, source=family.template)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_mask_is_the_golden_one(name: str, tmp_path: Path) -> None:
    family = FAMILIES[name]
    chat = format_of(family, tmp_path)
    [example] = preflight(chat, [Lesson(DIALOGUE)], 512).examples
    before, _, rest = family.golden.partition("<<")
    # The first end that leaves an end of turn before it: `>>>` may hold a special token's own.
    learnt, _, after = rest.rpartition(">>")
    assert chat.tokenizer.decode(example.prompt, keep_special=True) == before
    assert chat.tokenizer.decode(example.completion, keep_special=True) == learnt
    assert example.completion[-1] in chat.stop_tokens()
    assert example.size == len(example.prompt) + example.supervised + len(
        chat.tokenizer.encode(after)
    )


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "qwen3"])
def test_each_turn_is_learnt_where_that_is_asked_for(name: str, tmp_path: Path) -> None:
    family = FAMILIES[name]
    chat = format_of(family, tmp_path)
    [example] = preflight(chat, [Lesson(DIALOGUE)], 512, turns="every").examples
    assert isinstance(example, Example)
    before, _, rest = family.golden.partition("<<")
    last, _, after = rest.rpartition(">>")
    first = last.replace("Like this.", "So.")
    opening, _, between = before.partition(first)
    assert between
    runs = groupby(zip(example.tokens, example.mask, strict=True), key=lambda pair: pair[1])
    found = [(taught, tuple(token for token, _ in run)) for taught, run in runs]
    assert [taught for taught, _ in found][:4] == [False, True, False, True]
    texts = [chat.tokenizer.decode(tokens, keep_special=True) for _, tokens in found]
    assert texts == [text for text in (opening, first, between, last, after) if text]


def test_calls_are_turns_too_and_a_greeting_is_none(tmp_path: Path) -> None:
    family, (call, _, answer) = WITH_TOOLS["hermes"], LEARNT["hermes"]
    chat = format_of(family, tmp_path)
    greeting = Message("assistant", "Hello!")
    told = (
        *(TOOLS, greeting, Message("user", "Why?"), Calling("assistant", "", (CALLED,))),
        *(ToolResult("tool", "sun", "c1"), Message("assistant", "It is sunny.")),
    )
    [example] = preflight(chat, [Lesson(told)], 512, turns="every").examples
    assert isinstance(example, Example)
    taught = [token for token, learnt in zip(example.tokens, example.mask, strict=True) if learnt]
    assert chat.tokenizer.decode(taught, keep_special=True) == call + answer
    assert chat.tokenizer.decode(example.completion, keep_special=True) == answer


def test_a_template_that_rewrites_a_turn_later_is_refused(tmp_path: Path) -> None:
    """Qwen 3 takes the thinking out of answers once the dialogue goes on."""
    chat = format_of(FAMILIES["qwen3"], tmp_path)
    with pytest.raises(DataError, match=r"record 0: answer 1: .* otherwise once the dialogue goes"):
        preflight(chat, [Lesson(DIALOGUE)], 512, turns="every")


def test_a_blank_turn_is_named(tmp_path: Path) -> None:
    chat = format_of(FAMILIES["chatml"], tmp_path)
    blank = (*DIALOGUE[:2], Message("assistant", " "), *DIALOGUE[3:])
    with pytest.raises(DataError, match="the answer is blank"):
        preflight(chat, [Lesson(blank)], 512, turns="every")
    assert preflight(chat, [Lesson(blank)], 512).examples


@pytest.mark.parametrize("name", FAMILIES)
def test_no_record_is_ever_cut(name: str, tmp_path: Path) -> None:
    """At every length: whole, or dropped with its reason."""
    whole_or_dropped(format_of(FAMILIES[name], tmp_path), Lesson(DIALOGUE))


@pytest.mark.parametrize("name", WITH_TOOLS)
def test_no_call_and_no_result_is_ever_cut(name: str, tmp_path: Path) -> None:
    asked = (TOOLS, Message("user", "Why?"), Calling("assistant", "", (CALLED,)))
    told = (*asked, ToolResult("tool", "sun", "c1"), Message("assistant", "It is sunny."))
    whole_or_dropped(format_of(WITH_TOOLS[name], tmp_path), Lesson(told))


def whole_or_dropped(chat: ChatFormat, lesson: Lesson) -> None:
    """At every length from that of a short record to one more than its own, alone and packed."""
    short = Lesson((Message("user", "Why?"), Message("assistant", "So.")))
    least, whole = preflight(chat, [short, lesson], 4096).examples
    for length in range(least.size, whole.size + 2):
        checked = preflight(chat, [short, lesson], length)
        kept = [row for row in checked.examples if row.record == 1]
        assert kept in ([], [whole])
        assert bool(kept) == (length >= whole.size)
        assert [d.record for d in checked.dropped] == ([] if kept else [1])
        sizes = [row.longest for row in checked.examples]
        rows = packed_rows(sizes, examples=len(sizes), max_length=length, seed=1)
        assert sorted(place for row in rows for place in row) == list(range(len(sizes)))
        assert all(sum(sizes[place] for place in row) <= length for row in rows)


def test_a_template_that_never_opens_the_answer_is_refused(tmp_path: Path) -> None:
    """Without a generation prompt the first words of the answer's turn would be the model's."""
    family = FAMILIES["chatml"]
    bare = family.template.replace("{% if add_generation_prompt %}", "{% if false %}")
    chat = format_of(Family(family.specials, family.eos, bare, ""), tmp_path)
    with pytest.raises(DataError, match="training record 0"):
        preflight(chat, [Lesson(DIALOGUE)], 512)

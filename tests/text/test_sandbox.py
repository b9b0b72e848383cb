"""What a stranger's template may not do, told through `ChatTemplate`."""

import resource
import sys
import time

import pytest

from trimtab.errors import DataError
from trimtab.inference import Message
from trimtab.text.template import ChatTemplate

MESSAGES = [Message("user", "x" * 1_000)]
SECONDS = 20
MEGABYTES = 1_000

ESCAPES = {
    "class": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "attr filter": "{{ ''|attr('__class__')|attr('__mro__') }}",
    "map attribute": "{{ ['']|map(attribute='__class__')|map(attribute='__mro__')|list }}",
    "globals": "{{ raise_exception.__globals__ }}",
    "function code": "{{ range.__init__.__globals__ }}",
    "cycler": "{{ cycler.__init__.__globals__['os'].popen('id').read() }}",
    "self": "{{ self._TemplateReference__context.environment.globals.x.y }}",
    "format": "{{ '{0.__class__.__mro__}'.format('') }}",
    "format_map": "{{ '{x.__class__.__mro__}'.format_map({'x': 1}) }}",
    "format by map": "{{ ['{0.__class__.__mro__}'.format]|map('string')|first|length / 0 }}",
    "change": "{{ messages.append(1) }}",
    "change a message": "{{ messages[0].update(role='system') }}",
    "include": "{% include '/etc/passwd' %}",
    "import": "{% import 'os' as os %}",
    "generator frame": "{{ (messages|map('length')).gi_frame.f_globals }}",
    "namespace": "{% set n = namespace(__class__=1) %}{{ n.__class__.mro() }}",
}

ENDLESS = {
    "range": "{% for i in range(10**9) %}{% endfor %}",
    "nested": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "nested filter": "{% for i in range(99999) %}{% for j in range(99999) if false %}{% endfor %}"
    "{% endfor %}",
    "messages": "{% for a in s %}{% for b in s %}{% for c in s %}{% for d in s %}{% endfor %}"
    "{% endfor %}{% endfor %}{% endfor %}".replace(" s ", " messages[0].content "),
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "branching recursion": "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}"
    "{% endmacro %}{{ f(100) }}",
    "recursive loop": "{% for i in [[1, 1]] recursive %}{{ loop([i, i]) }}{% endfor %}",
    "lazy": "{% for i in range(99999) %}{{ range(99999)|select('none')|list|length }}{% endfor %}",
    "sums": "{% for i in range(99999) %}{% if range(99999)|sum %}{% endif %}{% endfor %}",
    "comparisons": "{% set x = 'a' * 1000000 %}{% set y = 'a' * 1000000 %}"
    "{% for i in range(99999) %}{% for j in range(99) %}{% if x == y %}{% endif %}{% endfor %}"
    "{% endfor %}",
    "slices": "{% set x = 'a' * 1000000 %}{% for i in range(99999) %}{% set y = x[::-1] %}"
    "{% endfor %}",
    "power": "{{ 10 ** (10 ** 10) }}",
    "squares": "{% set n = namespace(x=7) %}{% for i in range(60) %}{% set n.x = n.x * n.x %}"
    "{% endfor %}{{ n.x > 1 }}",
}

HUGE = {
    "output": "{% for i in range(99999) %}{{ messages[0].content }}{% endfor %}",
    "times": "{{ 'a' * 10**10 }}",
    "list times": "{{ ([1] * 10**10)|length }}",
    "power of a text": "{{ 'a' * 9**11 }}",
    "doubling by ~": "{% set n = namespace(x='a') %}{% for i in range(50) %}"
    "{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x|length }}",
    "doubling by +": "{% set n = namespace(x='a') %}{% for i in range(50) %}"
    "{% set n.x = n.x + n.x %}{% endfor %}{{ n.x|length }}",
    "doubling by block": "{% set n = namespace(x='a') %}{% for i in range(50) %}"
    "{% set n.x %}{{ n.x }}{{ n.x }}{% endset %}{% endfor %}{{ n.x|length }}",
    "doubling by macro": "{% macro f(n) %}{% if n %}{% set x = f(n-1) %}{{ x }}{{ x }}{% else %}a"
    "{% endif %}{% endmacro %}{{ f(50)|length }}",
    "doubling lists": "{% set n = namespace(x=[1]) %}{% for i in range(50) %}"
    "{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x }}",
    "doubling dicts": "{% set n = namespace(x=1) %}{% for i in range(50) %}"
    "{% set n.x = {'a': n.x, 'b': n.x} %}{% endfor %}{{ n.x|tojson }}",
    "doubling by join": "{% set n = namespace(x='a') %}{% for i in range(50) %}"
    "{% set n.x = [n.x, n.x]|join %}{% endfor %}{{ n.x|length }}",
    "doubling by method": "{% set n = namespace(x='a') %}{% for i in range(50) %}"
    "{% set n.x = ''.join([n.x, n.x]) %}{% endfor %}{{ n.x|length }}",
    "bytes": "{{ 'a'.encode().ljust(3000000000)|length }}",
    "bytes of a number": "{{ (1).to_bytes(3000000000, 'big')|length }}",
    "translation tables": "{% set x = 'abcdefgh' * 100000 %}{% set n = namespace(l=[]) %}"
    "{% for i in range(999) %}{% set n.l = [n.l, ''.maketrans(x, x)] %}{% endfor %}",
    "dicts of keys": "{% set n = namespace(l=[]) %}{% for i in range(999) %}"
    "{% set n.l = [n.l, {}.fromkeys(range(99999))] %}{% endfor %}",
    "split": "{% set x = 'a ' * 9999 %}{% set n = namespace(l=[]) %}{% for i in range(9999) %}"
    "{% set n.l = [n.l, x.split()] %}{% endfor %}",
    "center": "{{ 'a'|center(10**10)|length }}",
    "ljust": "{{ 'a'.ljust(10**10)|length }}",
    "zfill": "{{ 'a'.zfill(10**10)|length }}",
    "expandtabs": "{{ '\t'.expandtabs(2**31 - 1)|length }}",
    "indent": "{{ ('a\n' * 1000)|indent(10**8)|length }}",
    "replace": "{{ ('a' * 1000000).replace('a', 'b' * 1000000)|length }}",
    "replace filter": "{{ ('a' * 1000000)|replace('a', 'b' * 1000000)|length }}",
    "join": "{{ ('b' * 1000000).join('a' * 1000000)|length }}",
    "batch": "{{ [1]|batch(10**10, 'x')|list|length }}",
    "slice": "{{ [1]|slice(10**10)|list|length }}",
    "per cent": "{{ ('%9999999999d' % 1)|length }}",
    "format filter": "{{ ('%9999999999d'|format(1))|length }}",
    "format": "{{ '{:9999999999d}'.format(1)|length }}",
    "tojson": "{{ [1]|tojson(indent=10**10)|length }}",
    "lipsum": "{{ lipsum(n=10**7)|length }}",
    "shared lists": "{% set x = 'a' * 1000000 %}{% set y = [[x],[x],[x],[x],[x],[x],[x],[x]] %}"
    "{% for i in range(99) %}{{ (y|map('first')|join)|length }}{% endfor %}",
    "constant text": "{% set x %}{% for i in range(99999) %}" + "a" * 100_000 + "{% endfor %}"
    "{% endset %}{{ x|length }}",
}


@pytest.mark.parametrize("source", ESCAPES.values(), ids=ESCAPES)
def test_there_is_no_way_out(source: str) -> None:
    """Jinja writes nothing for an attribute that it hides, and refuses to go on from there."""
    try:
        rendered = ChatTemplate(source).render(MESSAGES)
    except DataError:
        rendered = ""

    assert rendered == ""


@pytest.mark.parametrize("source", ENDLESS.values(), ids=ENDLESS)
def test_every_rendering_ends(source: str) -> None:
    began = time.thread_time()

    with pytest.raises(DataError):
        ChatTemplate(source).render(MESSAGES)

    assert time.thread_time() - began < SECONDS


@pytest.mark.parametrize("source", HUGE.values(), ids=HUGE)
def test_no_text_fills_the_memory(source: str) -> None:
    before = _peak_bytes()

    with pytest.raises(DataError):
        ChatTemplate(source).render(MESSAGES)

    assert _peak_bytes() - before < MEGABYTES * 1_000_000


def _peak_bytes() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def test_one_rendering_leaves_the_next_its_whole_allowance() -> None:
    template = ChatTemplate("{% for i in range(60000) %}.{% endfor %}")

    assert [len(template.render(MESSAGES)) for _ in range(3)] == [60_000] * 3


def test_what_real_templates_do_with_long_dialogues_is_allowed() -> None:
    source = (
        "{% set users = messages|selectattr('role', 'equalto', 'user')|list %}{{ users|length }}"
        "{% for message in messages %}{% if messages[loop.index0:]|length == 1 %}"
        "{{ message.content.replace('word', 'term') | trim | upper }}{% endif %}{% endfor %}"
        "{{ messages|map(attribute='content')|join(', ')|length }}"
    )
    messages = [Message("user", "word " * 200) for _ in range(2_000)]

    assert ChatTemplate(source).render(messages).startswith("2000TERM TERM")


@pytest.mark.parametrize(
    "source",
    [
        "{{ 'a'.encode('nothing-such') }}",
        "{{ 1|dictsort }}",
        "{{ messages.index(1) }}",
        "{{ 1 / 0 }}",
        "{{ messages[0].content.x.y }}",
        "{{ raise_exception('two\nlines') }}",
        "{{ raise_exception() }}",
    ],
)
def test_whatever_it_raises_is_one_line_of_data_error(source: str) -> None:
    with pytest.raises(DataError) as refused:
        ChatTemplate(source).render(MESSAGES)

    assert "\n" not in refused.value.message


@pytest.mark.parametrize("source", ["(" * 20_000, "{{ " + "(" * 5_000 + " }}", "{{ " + "-" * 9_000])
def test_deep_nesting_is_refused_or_text(source: str) -> None:
    if source.startswith("("):
        assert ChatTemplate(source).render(MESSAGES) == source
    else:
        with pytest.raises(DataError):
            ChatTemplate(source)

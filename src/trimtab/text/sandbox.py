"""Jinja for strangers: no way out of the template, and an allowance for the work it does inside.

Jinja's own sandbox refuses attributes that lead out and ends `range` at 100,000, but a template
may nest loops, call itself, and double a text until the memory is full. Here every loop and every
operation that makes text takes from an `allowance`. Knows no messages.
"""

import json
import sys
from collections.abc import Callable
from functools import wraps
from types import GeneratorType
from typing import Any, NoReturn

from jinja2 import Template, TemplateError, TemplateSyntaxError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from trimtab.text.allowance import (
    CALL,
    ELEMENT,
    TURN,
    OutOfAllowance,
    factor,
    size,
    skim,
    spend,
    spend_product,
    step_budget,
    weigh,
)

MAX_POWER_BITS = 10_000
# They set widths by numbers inside a text, which no allowance foresees; or they draw at random.
# Refused when called, not when read: a template may use them for tools, which are never sent.
REFUSED_FILTERS = ("format", "random", "filesizeformat", "urlize", "xmlattr", "pprint")
# They make bytes, of which the allowance knows nothing, or as many elements as they are told.
REFUSED_METHODS = ("encode", "to_bytes", "maketrans", "fromkeys")
# They take time, but hardly any of it depends on the size of what they are given.
CHEAP_FILTERS = ("length", "count", "first", "last", "default", "d", "safe", "items")
# They hand on elements one by one; what they hand on is weighed, and the filters they call as well.
LAZY_FILTERS = ("map", "select", "reject", "selectattr", "rejectattr")


class TemplateSandbox(ImmutableSandboxedEnvironment):
    """As transformers sets Jinja up: `raise_exception`, `tojson`, `generation` blocks, no escaping.

    Render inside of `step_budget`.
    """

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            finalize=weigh,
            extensions=["jinja2.ext.loopcontrols", GenerationBlock],
        )
        self.filters["tojson"] = _to_json
        self.filters = {name: _metered(name, filter_) for name, filter_ in self.filters.items()}
        self.globals = {
            "range": self.globals["range"],
            "dict": _dict,
            "namespace": _Namespace,
            "raise_exception": _refuse,
        }
        self.spend, self.weigh, self.skim = spend, weigh, skim

    def from_source(self, source: str) -> Template:
        """The compiled template. Raises TemplateError where there is no reading it."""
        try:
            with step_budget():
                return self.from_string(source)
        except TemplateSyntaxError as error:
            raise TemplateError(f"line {error.lineno}: {error.message}") from error
        except TemplateError:
            raise
        # Jinja compiles to Python, which gives up in its own ways on what is nested too deeply.
        except (RecursionError, MemoryError, SyntaxError, ValueError, OverflowError) as error:
            raise TemplateError(f"nested too deeply or too large: {error}") from error

    def handle_exception(self, source: str | None = None) -> NoReturn:
        """Whatever a template's expressions raise becomes a TemplateError of one line."""
        error = sys.exc_info()[1]
        if isinstance(error, TemplateSyntaxError):
            super().handle_exception(source)
        message = " ".join(str(error).split()) or type(error).__name__
        raise TemplateError(message) from error

    def _generate(self, source: nodes.Template, *args: Any, **kwargs: Any) -> str:
        return super()._generate(_Metered().visit(source), *args, **kwargs)

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        if obj is spend or obj is weigh or obj is skim:
            # Put in by us; what Jinja hands over beside is for functions of the template's own.
            return obj(*args)
        spend(CALL)
        of_text = isinstance(getattr(obj, "__self__", None), str)
        if of_text:
            spend_product(obj.__self__, args, kwargs)
        result = super().call(context, obj, *args, **kwargs)
        return skim(result, ELEMENT) if of_text and isinstance(result, list) else result

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        return attr not in REFUSED_METHODS and super().is_safe_attribute(obj, attr, value)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "+":
            spend(size(left) + size(right))
        elif operator == "**":
            whole = isinstance(left, int) and isinstance(right, int)
            if whole and left.bit_length() * abs(right) > MAX_POWER_BITS:
                raise OutOfAllowance("the template raises a number to too high a power")
        elif operator == "%" and isinstance(left, str):
            raise SecurityError("texts are not formatted by %")
        else:
            spend(factor(left) * factor(right))
        return super().call_binop(context, operator, left, right)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        if super().wrap_str_format(value) is not None:
            raise SecurityError("texts are not formatted by format()")
        return None


class GenerationBlock(Extension):
    """Lets `{% generation %}` through, by which transformers marks answers in a training mask."""

    tags = {"generation"}  # noqa: RUF012 - Jinja reads and declares it so

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


_Repeated = nodes.For | nodes.Macro | nodes.CallBlock | nodes.Block


class _Metered(NodeTransformer):
    """Puts what is spent into the template itself, where Jinja has no hook."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802 - named by Jinja
        self._body(node)
        if node.test is not None:
            node.test = nodes.And(_call("spend", nodes.Const(TURN)), node.test)
        return node

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:  # noqa: N802
        return self._body(node)

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.Node:  # noqa: N802
        return self._body(node)

    def visit_Block(self, node: nodes.Block) -> nodes.Node:  # noqa: N802
        return self._body(node)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        node.nodes = [_call("weigh", operand) for operand in node.nodes]
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        node.expr = _call("weigh", node.expr)
        for operand in node.ops:
            operand.expr = _call("weigh", operand.expr)
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        if isinstance(node.arg, nodes.Slice):
            node.node = _call("skim", node.node)
        return node

    def _body(self, node: _Repeated) -> nodes.Node:
        """A turn takes the constant text in it too: Jinja writes that without asking."""
        written = sum(len(text.data) for text in node.find_all(nodes.TemplateData))
        self.generic_visit(node)
        turn = nodes.ExprStmt(_call("spend", nodes.Const(TURN + written)))
        node.body.insert(0, turn.set_lineno(node.lineno, override=True))
        return node


class _Namespace(Namespace):
    """Jinja's namespace checks no names; names with an underscore lead into Python."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, *rest = args  # so that a template may name an attribute `self`
        values = dict(*rest, **kwargs)
        for name in values:
            _check_name(name)
        Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _call(function: str, argument: nodes.Expr) -> nodes.Call:
    return nodes.Call(nodes.EnvironmentAttribute(function), [argument], [], None, None)


def _metered(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    if name in REFUSED_FILTERS:
        return lambda *_, **__: _refuse(f"the filter {name!r} is not allowed")
    if name in CHEAP_FILTERS:
        return function
    return _weighed(function, lazy=name in LAZY_FILTERS)


def _weighed(function: Callable[..., Any], lazy: bool) -> Callable[..., Any]:
    """A filter that spends what its subject and arguments may grow to."""
    # Jinja hands context, environment or evaluation context to filters that ask for it.
    first = 1 if hasattr(function, "jinja_pass_arg") else 0

    @wraps(function)
    def weighed(*args: Any, **kwargs: Any) -> Any:
        spend(CALL)
        if lazy:
            skim(args[first], ELEMENT)
        else:
            spend_product(args[first], args[first + 1 :], kwargs)
        result = function(*args, **kwargs)
        return map(weigh, result) if isinstance(result, GeneratorType) else result

    return weighed


def _dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    """A function, because the class itself has more attributes than a template may see."""
    return dict(*args, **kwargs)


def _check_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace cannot hold {name!r}")


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """As transformers renders it: HTML characters are left alone."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )

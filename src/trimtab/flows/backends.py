"""What computes for a base: the built-in engine, or a vLLM server.

A run asks the engine that its project file names. `serve` and its gateways do not read that file:
what they compute with is written down in the database once a version that was proved there is live.
A server that is given by URL may be somebody's who wants money, so it has a price, and every
version on its base gets that.
"""

from dataclasses import asdict, dataclass
from decimal import Decimal

from trimtab.engine.processor import require_vnni
from trimtab.engine.vllm import names as vllm_names
from trimtab.engine.vllm import server as vllm_server
from trimtab.errors import EngineError, UserError
from trimtab.flows.tables import backends, find_backend
from trimtab.inference import Capabilities
from trimtab.ledger.money import Price, nano
from trimtab.ledger.prices import OWN_MACHINE, prices_of, set_price
from trimtab.project import Project
from trimtab.registry import versions
from trimtab.store.database import Connection
from trimtab.store.rows import insert_or_update

MILLION = 1_000_000
BUILT_IN_SERVES = "let the built-in engine serve it: leave serve.vllm_url and serve.vllm_env out"


@dataclass(frozen=True, slots=True)
class Backend:
    """Without a server's URL, and without the folder of an environment with vLLM, the built-in
    engine; `quantisation` is that one's.
    """

    vllm_url: str = ""
    vllm_env: str = ""
    quantisation: str = "none"

    @property
    def built_in(self) -> bool:
        return not (self.vllm_url or self.vllm_env)

    def arguments(self) -> list[str]:
        """For the engine process."""
        if self.vllm_url:
            return ["--vllm-url", self.vllm_url]
        if self.vllm_env:
            return ["--vllm-env", self.vllm_env]
        return [] if self.quantisation == "none" else ["--quantisation", self.quantisation]


BUILT_IN = Backend()


def backend_of(project: Project) -> Backend:
    """What a project's file says; a relative folder is relative to the file."""
    serve = project.serve
    folder = str((project.root / serve.vllm_env).absolute()) if serve.vllm_env else ""
    return Backend(serve.vllm_url or "", folder, serve.quantisation)


def price_of_tokens(project: Project) -> Price:
    """What a token of a project's versions costs; one's own machine costs nothing, stated."""
    price = project.serve.price
    if price is None:
        return OWN_MACHINE
    cached = None if price.cached is None else _of_token(price.cached)
    return Price(_of_token(price.prompt), _of_token(price.completion), cached)


def _of_token(usd_of_million: float) -> int:
    return nano(Decimal(str(usd_of_million)) / MILLION)


def declare(connection: Connection, project: Project, base: str) -> None:
    """Write down what computes for a base from now on, and what its versions cost there.

    A base has one engine: of several projects that stand on it, the last that promoted decides.
    """
    row = {"base_hash": base, **asdict(backend_of(project))}
    insert_or_update(connection, backends, row, key=["base_hash"])
    if project.serve.price is None:
        return
    price = price_of_tokens(project)
    standing = [each.hash for each in versions.list(connection) if each.spec.base == base]
    known = prices_of(connection, standing)
    for version in standing:
        if known.get(version) != price:
            set_price(connection, version, price)


def declared(connection: Connection, base: str) -> Backend:
    """What `serve` computes a base with: the built-in engine where nothing else was declared."""
    found = find_backend(connection, base)
    if found is None:
        return BUILT_IN
    return Backend(found["vllm_url"], found["vllm_env"], found["quantisation"])


def check_method(project: Project) -> None:
    """Before anything is trained. Raises UserError where the chosen engine cannot serve it here."""
    if backend_of(project).quantisation == "int8":
        try:
            require_vnni()
        except EngineError as error:
            raise UserError(error.message, hint="leave serve.quantisation out here") from error
    if reason := unserved(project, project.train.method):
        raise UserError(reason, hint=BUILT_IN_SERVES)


def unserved(project: Project, method: str) -> str:
    """Why the chosen engine cannot serve what a method makes; empty where it can."""
    backend, rank = backend_of(project), project.train.rank
    if backend.built_in:
        return ""
    kind = "lora" if method in ("rslora", "qlora") else method
    if kind not in vllm_names.METHODS:
        return _cannot(f"train.method {kind}", f"vLLM serves {', '.join(vllm_names.METHODS)}")
    if kind == "full" and backend.vllm_url:
        return _cannot(
            "train.method full", "it makes a base that the server at a URL does not hold"
        )
    if kind == "lora" and backend.vllm_env and rank > vllm_server.MAX_RANK:
        return _cannot(f"train.rank {rank}", f"vLLM is started for {vllm_server.MAX_RANK}")
    return ""


def check_served(able: Capabilities, method: str, version: str) -> None:
    """Raises UserError where an engine says that it cannot serve a version's method."""
    if method not in able.methods:
        reason = _cannot(
            f"version {version} is of the method {method}",
            f"{able.runtime.engine} serves {', '.join(able.methods)}",
        )
        raise UserError(reason, hint=BUILT_IN_SERVES)


def _cannot(what: str, why: str) -> str:
    return f"{what} cannot be served: {why}"

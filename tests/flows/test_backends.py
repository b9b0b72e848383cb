"""A project chooses vLLM: a loop through its routes, and what is refused before or after it."""

import asyncio
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.engine.wire import KEY, VERSION, Vllm
from tests.serving import eventually
from tests.tiny import build_base
from tests.tiny_project import write_project
from trimtab.engine import processor
from trimtab.engine.vllm.server import MAX_RANK
from trimtab.errors import IdentityError, UserError
from trimtab.flows.backends import BUILT_IN, Backend, backend_of, check_method, declared
from trimtab.flows.engines import answers, engine_child
from trimtab.flows.loop import Outcome, run
from trimtab.flows.served import Engines
from trimtab.flows.sockets import engine_socket
from trimtab.flows.supervisor import Supervisor
from trimtab.ledger.money import Price
from trimtab.ledger.own import spent
from trimtab.ledger.prices import price_of
from trimtab.project import Project
from trimtab.registry import bases, reports, versions
from trimtab.registry.versions import ModelVersion

EVALUATE = {"suites": ["holdout"], "match": ["intent"], "shots": 0, "max_tokens": 2}
PRICE = {"prompt": 0.1, "completion": 0.4}


class Looped(NamedTuple):
    """A loop that its gate refused, and one with another gate that ended in a promotion."""

    vllm: Vllm
    refused: Outcome
    left_by_refused: dict[str, str]
    declared_by_refused: Backend
    promoted: Outcome

    @property
    def candidate(self) -> ModelVersion:
        with closing(self.promoted.home.database()) as database, database.read() as connection:
            return versions.get(connection, self.promoted.outputs["register"]["version"])


@pytest.fixture(scope="module")
def looped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Looped]:
    folder = tmp_path_factory.mktemp("project")
    # The project's own base is written anew with its file, and a server has its base mapped.
    vllm = Vllm(build_base(folder / "server" / "base"))
    with pytest.MonkeyPatch.context() as environment, vllm.listening() as url:
        environment.setenv("TRIMTAB_VLLM_KEY", KEY)
        serve = {"vllm_url": url, "price": PRICE}
        gate = {"gate": "exact_match"}
        file = write_project(folder, 90, serve=serve, evaluate=EVALUATE | gate)
        refused = run(Project.load(file))
        left, then = dict(vllm.adapters), _declared(refused)
        gate = {"gate": "log_likelihood"}
        file = write_project(folder, 90, serve=serve, evaluate=EVALUATE | gate)
        yield Looped(vllm, refused, left, then, run(Project.load(file)))


def _declared(outcome: Outcome) -> Backend:
    with closing(outcome.home.database()) as database, database.read() as connection:
        version = versions.get(connection, outcome.outputs["register"]["version"])
        return declared(connection, version.spec.base)


def test_a_version_is_verified_and_measured_through_the_server(looped: Looped) -> None:
    outputs, candidate = looped.promoted.outputs, looped.candidate.hash
    assert looped.promoted.promoted, looped.promoted.refused
    assert outputs["verify"]["runtime"].startswith(f"vllm-{VERSION}/")
    assert outputs["verify"]["merged_difference"] > 0
    with closing(looped.promoted.home.database()) as database, database.read() as connection:
        found = reports.of_version(connection, candidate, "holdout")
    assert {report.runtime for report in found} == {outputs["verify"]["runtime"]}
    asked = [body for body in looped.vllm.bodies if body["model"].startswith(f"{candidate}@")]
    assert any(body.get("stream") for body in asked)
    assert any("prompt_logprobs" in body for body in asked)


def test_a_refused_candidate_does_not_stay_on_the_server(looped: Looped) -> None:
    assert "cannot tell" in looped.refused.refused
    assert any("@" in body["model"] for body in looped.vllm.bodies)
    assert looped.left_by_refused == {}


def test_serve_computes_with_it_once_a_version_is_live_there(looped: Looped) -> None:
    chosen = backend_of(looped.promoted.project)
    assert looped.declared_by_refused == BUILT_IN
    assert _declared(looped.promoted) == chosen
    supervisor = Supervisor(looped.promoted.home, "127.0.0.1", 0, 0)
    supervisor._learn_bases()
    [child] = supervisor._engines.values()
    assert child.arguments[-2:] == ["--vllm-url", chosen.vllm_url]
    supervisor._stop_children()
    supervisor.close()


def test_every_version_on_the_base_has_the_price_of_the_server(looped: Looped) -> None:
    registered = looped.promoted.outputs["register"]
    with closing(looped.promoted.home.database()) as database, database.read() as connection:
        for version in (registered["version"], registered["base_version"]):
            assert price_of(connection, version) == Price(100, 400)


def test_what_a_loop_asks_of_a_server_with_a_price_is_in_the_ledger(looped: Looped) -> None:
    with closing(looped.promoted.home.database()) as database, database.read() as connection:
        spending = spent(connection, "tiny")
    assert spending.keys() == {"verify", "evaluate", "shadow"}
    asked = looped.vllm.bodies
    assert 0 < sum(spending.values()) < len(asked) * Price(100, 400).of(2000, 100)


def test_what_answers_as_something_else_is_unloaded_from_the_engine_of_serve(
    looped: Looped,
) -> None:
    home, candidate = looped.promoted.home, looped.candidate
    looped.vllm.adapters.clear()
    asyncio.run(looped.vllm.engine.unload(_name(looped)))
    looped.vllm.ignores_adapters = True
    try:
        with closing(home.database()) as database, engine_of_serve(looped):
            with pytest.raises(IdentityError, match="does not answer as itself"):
                asyncio.run(Engines(home, database).ready(candidate))
            assert looped.vllm.adapters == {}
            looped.vllm.ignores_adapters = False
            asyncio.run(Engines(home, database).ready(candidate))
            assert list(looped.vllm.adapters) == [_name(looped)]
    finally:
        looped.vllm.ignores_adapters = False


def test_a_server_with_another_model_under_the_name_of_the_base_is_refused(
    looped: Looped, tmp_path: Path
) -> None:
    """What verification had the built-in engine say of the base is the base's proof."""
    home, server = looped.promoted.home, looped.vllm
    other = Vllm(build_base(tmp_path / server.base.name, seed=5)).engine
    ours, server.engine = server.engine, other
    try:
        with closing(home.database()) as database, engine_of_serve(looped):
            with database.read() as connection:
                registered = looped.promoted.outputs["register"]
                base = versions.get(connection, registered["base_version"])
            with pytest.raises(IdentityError, match="does not answer as itself"):
                asyncio.run(Engines(home, database).ready(base))
            server.engine = ours
            asyncio.run(Engines(home, database).ready(base))
    finally:
        server.engine = ours
        other.close()


def _name(looped: Looped) -> str:
    names = {body["model"] for body in looped.vllm.bodies}
    [name] = [each for each in names if each.startswith(f"{looped.candidate.hash}@")]
    return name


@contextmanager
def engine_of_serve(looped: Looped) -> Iterator[None]:
    home = looped.promoted.home
    with closing(home.database()) as database, database.read() as connection:
        base = bases.get(connection, looped.candidate.spec.base)
    where = engine_socket(home, base.hash)
    child = engine_child(where, base.hash, base.folder, backend_of(looped.promoted.project))
    child.start()
    try:
        eventually(lambda: answers(where))
        yield
    finally:
        child.stop(10)


@pytest.mark.parametrize(
    ("train", "serve", "message"),
    [
        ({"method": "dora"}, {"vllm_env": "vllm"}, "train.method dora cannot be served"),
        ({"method": "full"}, {"vllm_url": "http://host", "price": PRICE}, "does not hold"),
        ({"rank": MAX_RANK + 1}, {"vllm_env": "vllm"}, f"started for {MAX_RANK}"),
    ],
)
def test_what_the_chosen_engine_cannot_serve_is_not_trained(
    tmp_path: Path, train: dict[str, Any], serve: dict[str, Any], message: str
) -> None:
    file = write_project(tmp_path, train=train, serve=serve)
    with pytest.raises(UserError, match=message) as caught:
        run(Project.load(file))
    assert "built-in engine" in caught.value.hint
    assert not any((tmp_path / ".trimtab" / "runs").glob("*"))


def test_the_plan_closes_what_the_chosen_engine_cannot_serve(tmp_path: Path) -> None:
    project = Project.load(write_project(tmp_path, serve={"vllm_env": "vllm"}))
    plan = run(project, until="plan").outputs["plan"]["plan"]
    told = {no["method"]: "; ".join(no["reasons"]) for no in plan["refused"]}
    assert {"dora", "ia3", "prompt", "prefix", "bottleneck"} <= told.keys()
    assert "train.method ia3 cannot be served: vLLM serves lora, full" in told["ia3"]
    assert {"lora", "rslora"} <= {each["method"] for each in plan["candidates"]}


def test_a_folder_is_relative_to_the_file(tmp_path: Path) -> None:
    project = Project.load(write_project(tmp_path, serve={"vllm_env": "vllm"}))
    assert backend_of(project).arguments() == ["--vllm-env", str(tmp_path / "vllm")]


def test_bytes_are_asked_for_in_the_file_and_refused_where_the_processor_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = Project.load(write_project(tmp_path, serve={"quantisation": "int8"}))
    assert backend_of(project).arguments() == ["--quantisation", "int8"]
    monkeypatch.setattr(processor, "cpu_flags", lambda cpuinfo: {"avx2"})
    with pytest.raises(UserError, match="VNNI"):
        run(project)
    assert not any((tmp_path / ".trimtab" / "runs").glob("*"))
    monkeypatch.setattr(processor, "cpu_flags", lambda cpuinfo: {"avx_vnni"})
    check_method(project)

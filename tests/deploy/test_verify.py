"""What was trained is what answers, through the real engine on a tiny model."""

import asyncio
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.deploy.world import (
    DIALOGUES,
    SYSTEM,
    World,
    build_world,
    copy_of,
    edit_json,
    engine_in,
    spec_of,
)
from tests.engine.kinds import KindReference, build_kind
from tests.tiny import build_adapter, build_base
from trimtab.deploy.package import Package, files_of
from trimtab.deploy.verify import Verification, said_of, verify
from trimtab.engine.continuous import quantisation
from trimtab.engine.local import LocalEngine
from trimtab.errors import IdentityError, VersionNotLoaded
from trimtab.inference import NARROW_NATS, Engine, Proof, Runtime, ScoreRequest, VersionFiles
from trimtab.text.chat import ChatFormat


def run(engine: Engine, package: Package, files: VersionFiles, world: World) -> Verification:
    return asyncio.run(verify(engine, package, files, world.base_files()))


def refused(engine: Engine, package: Package, files: VersionFiles, world: World) -> str:
    """The reason of an IdentityError; the engine holds nothing afterwards."""
    with pytest.raises(IdentityError) as caught:
        run(engine, package, files, world)
    with pytest.raises(VersionNotLoaded):
        asyncio.run(engine.score(ScoreRequest(files.version, (1,), ((2,),), "after")))
    return caught.value.message


@pytest.fixture
def package(world: World, tmp_path: Path) -> Package:
    return world.package(tmp_path)


@pytest.fixture
def files(world: World, package: Package) -> VersionFiles:
    return files_of(world.spec, world.base, package)


def test_an_honest_version_is_verified(
    engine: Engine, package: Package, files: VersionFiles, world: World
) -> None:
    found = run(engine, package, files, world)
    assert found.ok, found.reason
    assert found.tokens == sum(len(probe.completion) for probe in package.probes.probes)
    assert found.probe_difference <= found.tolerance
    assert found.merged_difference <= found.merged_tolerance == found.tolerance
    assert found.base_difference > 5 * found.tolerance
    assert found.runtime.endswith("/cpu/float32/none")
    assert json.loads(json.dumps(found.to_json()))["ok"]


@pytest.mark.parametrize("method", ["ia3", "prompt_tuning", "prefix_tuning", "bottleneck"])
def test_a_version_of_any_method_is_verified_and_not_mistaken_for_another(
    engine: Engine, base: Path, tmp_path: Path, method: str
) -> None:
    worlds = [world_of_method(base, tmp_path / str(seed), method, seed) for seed in (1, 2)]
    packages = [world.package(tmp_path / str(i)) for i, world in enumerate(worlds)]
    for world, package in zip(worlds, packages, strict=True):
        found = run(engine, package, files_of(world.spec, base, package), world)
        assert found.ok, found.reason
    swapped = replace(packages[0], probes=packages[1].probes)
    found = run(engine, swapped, files_of(worlds[0].spec, base, packages[0]), worlds[0])
    assert "nat off" in found.reason


def world_of_method(base: Path, folder: Path, method: str, seed: int) -> World:
    """Its probes are what PEFT says, or transformers with our bottlenecks."""
    adapter = build_kind(folder / "adapter", base, method, seed)
    chat_format = ChatFormat.from_folder(base, system=SYSTEM)
    reference = KindReference(base, adapter)
    probes = []
    for dialogue in DIALOGUES[:6]:
        prompt = chat_format.prompt_tokens(dialogue[:-1])
        answer = tuple(chat_format.tokenizer.encode(dialogue[-1].content))
        probes.append([prompt, answer, reference.score(prompt, answer)])
    trained = json.dumps({"tolerance": 1e-3, "dtype": "float32", "probes": probes}).encode()
    return World(base, adapter, trained, spec_of(base, adapter), chat_format)


@pytest.mark.parametrize("serving", ["bfloat16", "float32"])
def test_what_was_trained_in_bfloat16_is_told_from_others_whatever_serves_it(
    base: Path, tmp_path: Path, serving: str
) -> None:
    """Two programs that round to it are further apart than one is from itself in another shape."""
    world = build_world(base, tmp_path / "run", dtype="bfloat16")
    idle = build_world(base, tmp_path / "idle", spread=0.0, dtype="bfloat16")
    package, empty = world.package(tmp_path / "1"), idle.package(tmp_path / "2")
    files = files_of(world.spec, base, package)
    with engine_in(base, serving) as engine:
        found = run(engine, package, files, world)
        nothing = run(engine, empty, files_of(idle.spec, base, empty), idle)
        with pytest.raises(IdentityError, match="does not answer as itself"):
            asyncio.run(engine.load(replace(files, adapter=idle.adapter)))
    assert found.runtime.endswith(f"/cpu/{serving}/none")
    assert found.ok, found.reason
    assert package.probes.tolerance <= 0.1 < found.tolerance == NARROW_NATS
    assert found.merged_difference <= found.merged_tolerance < found.base_difference
    assert found.merged_tolerance <= package.probes.tolerance or serving == "bfloat16"
    assert "does nothing" in nothing.reason


def test_what_is_a_little_off_everywhere_is_not_the_rounding_of_bfloat16() -> None:
    runtime = Runtime("trimtab", "0", "cpu", "bfloat16")
    proof = Proof(0.01, (), "bfloat16")
    assert not proof.objection([0.4, *[0.05] * 99], runtime)
    assert "on the average" in proof.objection([0.2] * 100, runtime)
    assert "0.6 nat off" in proof.objection([0.6, *[0.0] * 99], runtime)
    exact = replace(proof, dtype="float32")
    assert "0.02 nat off" in exact.objection([0.02], replace(runtime, dtype="float32"))


def test_a_version_is_judged_under_a_name_that_nobody_asks_for_and_is_gone_afterwards(
    engine: Engine, package: Package, files: VersionFiles, world: World
) -> None:
    run(engine, package, files, world)
    assert isinstance(engine, LocalEngine)
    assert not engine._versions.held


def test_two_runs_judge_through_one_engine_at_once(
    engine: Engine, package: Package, files: VersionFiles, world: World
) -> None:
    """The one that is done first takes nothing from the other."""

    async def both() -> list[Verification]:
        one = verify(engine, package, files, world.base_files())
        other = verify(engine, package, files, world.base_files())
        return await asyncio.gather(one, other)

    assert [found.ok for found in asyncio.run(both())] == [True, True]


def test_a_base_that_does_not_repeat_what_it_says_elsewhere_is_refused(
    engine: Engine, package: Package, files: VersionFiles, world: World, tmp_path: Path
) -> None:
    """As of a server that knows it by its name alone."""
    honest = world.base_files()
    with engine_in(world.base, "float32") as by:
        said = asyncio.run(said_of(package, honest, by))
    assert said.tolerance == package.probes.tolerance
    proved = replace(honest, proof=said.proof())
    assert asyncio.run(verify(engine, package, files, proved)).ok
    other = build_base(tmp_path / "other", seed=5)
    with engine_in(other, "float32") as by:
        foreign = asyncio.run(said_of(package, replace(honest, base=other), by))
    with pytest.raises(IdentityError, match="does not answer as itself"):
        asyncio.run(verify(engine, package, files, replace(honest, proof=foreign.proof())))
    with engine_in(world.base, "bfloat16") as by:
        narrow = asyncio.run(said_of(package, honest, by)).proof()
    runtime = asyncio.run(engine.capabilities()).runtime
    assert narrow.allowed(runtime) == NARROW_NATS
    assert said.proof().allowed(runtime) == package.probes.tolerance
    assert said.proof().allowed(replace(runtime, dtype="bfloat16")) == NARROW_NATS


def test_an_adapter_that_does_nothing_is_found_out(
    engine: Engine, base: Path, tmp_path: Path
) -> None:
    world = build_world(base, tmp_path / "run", spread=0.0)
    package = world.package(tmp_path)
    found = run(engine, package, files_of(world.spec, base, package), world)
    assert not found.ok
    assert found.reason.startswith("the adapter does nothing: 0 nat from its base")


def test_probes_of_another_adapter_are_not_reproduced(
    engine: Engine, world: World, tmp_path: Path
) -> None:
    """Registered and packaged consistently, but trained elsewhere: only the probes can tell."""
    other = build_adapter(tmp_path / "other", world.base, seed=7)
    swapped = replace(world, adapter=other, spec=spec_of(world.base, other))
    package = swapped.package(tmp_path)
    found = run(engine, package, files_of(swapped.spec, world.base, package), swapped)
    assert not found.ok
    assert "nat off" in found.reason


def test_no_probes_verify_nothing(
    engine: Engine, package: Package, files: VersionFiles, world: World
) -> None:
    silent = replace(package, probes=replace(package.probes, probes=()))
    found = run(engine, silent, files, world)
    assert not found.ok
    assert found.reason == "no probes: nothing was compared"


def test_a_swapped_adapter_is_refused(
    engine: Engine, package: Package, files: VersionFiles, world: World, tmp_path: Path
) -> None:
    other = build_adapter(tmp_path / "other", world.base, seed=7)
    assert "wrong adapter" in refused(engine, package, replace(files, adapter=other), world)


def test_no_adapter_is_refused(
    engine: Engine, package: Package, files: VersionFiles, world: World
) -> None:
    assert "wrong adapter" in refused(engine, package, replace(files, adapter=None), world)


def test_tampered_weights_are_refused(
    engine: Engine, package: Package, files: VersionFiles, world: World, tmp_path: Path
) -> None:
    adapter = copy_of(package.adapter, tmp_path / "tampered")
    file = adapter / "adapter_model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert "wrong adapter" in refused(engine, package, replace(files, adapter=adapter), world)


def test_a_tampered_scale_is_refused(
    engine: Engine, package: Package, files: VersionFiles, world: World, tmp_path: Path
) -> None:
    adapter = copy_of(package.adapter, tmp_path / "tampered")
    edit_json(adapter / "adapter_config.json", lora_alpha=16)
    assert "wrong adapter" in refused(engine, package, replace(files, adapter=adapter), world)


def test_a_wrong_base_is_refused(
    engine: Engine, package: Package, files: VersionFiles, world: World, tmp_path: Path
) -> None:
    other = build_base(tmp_path / "other", seed=5)
    assert "wrong base" in refused(engine, package, replace(files, base=other), world)


def test_a_wrong_tokenizer_is_refused(
    engine: Engine, package: Package, files: VersionFiles, world: World, tmp_path: Path
) -> None:
    other = tmp_path / "tokenizer"
    shutil.copytree(world.base, other)
    edit_json(other / "tokenizer.json", normalizer={"type": "Lowercase"})
    assert "wrong tokenizer" in refused(engine, package, replace(files, tokenizer=other), world)


def test_a_wrong_template_is_refused(engine: Engine, package: Package, world: World) -> None:
    """The same weights and tokenizer under a template that they were not trained with."""
    source = world.spec.template["chat_template"].replace("assistant", "helper")
    spec = replace(world.spec, template={**world.spec.template, "chat_template": source})
    files = files_of(spec, world.base, package)
    reason = refused(engine, replace(package, spec=spec), files, world)
    assert "wrong template" in reason


def test_files_under_another_name_are_refused(
    engine: Engine, package: Package, files: VersionFiles, world: World
) -> None:
    assert "the package is of version" in refused(
        engine, package, replace(files, version="f" * 64), world
    )


def test_weights_in_bytes_are_verified_within_what_bytes_change(
    base: Path,
    world: World,
    package: Package,
    files: VersionFiles,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also on a processor that would be refused for being slow at it."""
    monkeypatch.setattr(quantisation, "require_vnni", lambda: None)
    engine = LocalEngine(base, torch.float32, torch.device("cpu"), "int8")
    try:
        found = run(engine, package, files, world)
        assert found.ok, found.reason
        assert package.probes.tolerance < found.probe_difference <= found.tolerance
        asyncio.run(engine.load(files))
        nothing = build_world(base, tmp_path / "nothing", spread=0.0)
        idle = nothing.package(tmp_path / "idle")
        told = run(engine, idle, files_of(nothing.spec, base, idle), nothing)
        assert not told.ok
        assert "does nothing" in told.reason
    finally:
        engine.close()

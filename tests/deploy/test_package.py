import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.deploy.world import PROMPTS, World, copy_of, edit_json
from tests.tiny import build_adapter
from trimtab.deploy.package import files_of, materialise, package
from trimtab.deploy.probes import Probes, with_messages
from trimtab.errors import DataError, IdentityError, StoreError
from trimtab.inference import Message
from trimtab.store.blobs import Blobs
from trimtab.text.chat import ChatFormat


def test_a_package_holds_the_version_and_not_its_base(world: World, tmp_path: Path) -> None:
    found = world.package(tmp_path)
    names = {path.relative_to(found.folder).as_posix() for path in found.folder.rglob("*.*")}
    assert names == {
        "version.json",
        "probes.json",
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
    }
    assert found.spec == world.spec
    assert found.spec.hash == world.spec.hash
    assert len(found.probes.probes) == len(PROMPTS)


def test_the_same_version_is_the_same_artifact_from_any_path(world: World, tmp_path: Path) -> None:
    probes = with_messages(world.trained, PROMPTS, world.chat_format)
    elsewhere = copy_of(world.adapter, tmp_path / "elsewhere")
    edit_json(elsewhere / "adapter_config.json", base_model_name_or_path="/another/machine")
    (elsewhere / "README.md").write_text("as PEFT writes one")
    first = package(Blobs(tmp_path / "a"), world.spec, world.adapter, probes)
    second = package(Blobs(tmp_path / "b"), world.spec, elsewhere, probes)
    assert first == second


def test_another_adapter_is_not_packaged_under_the_versions_name(
    world: World, tmp_path: Path
) -> None:
    other = build_adapter(tmp_path / "other", world.base, seed=7)
    probes = with_messages(world.trained, PROMPTS, world.chat_format)
    with pytest.raises(IdentityError, match="not the adapter of version"):
        package(Blobs(tmp_path / "blobs"), world.spec, other, probes)


def test_a_changed_file_is_put_right_and_a_changed_blob_is_refused(
    world: World, tmp_path: Path
) -> None:
    blobs = Blobs(tmp_path / "blobs")
    probes = with_messages(world.trained, PROMPTS, world.chat_format)
    artifact = package(blobs, world.spec, world.adapter, probes)
    found = materialise(blobs, artifact, tmp_path / "versions")
    file = found.adapter / "adapter_model.safetensors"
    whole = file.read_bytes()
    file.unlink()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    materialise(blobs, artifact, tmp_path / "versions")
    assert file.read_bytes() == whole

    manifest = json.loads(blobs.read_bytes(artifact))
    [name] = [row["sha256"] for row in manifest if row["path"].endswith(".safetensors")]
    blob = blobs.path(name)
    blob.unlink()
    blob.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    file.unlink()
    with pytest.raises(StoreError, match="the bytes are not those of its name"):
        materialise(blobs, artifact, tmp_path / "versions")


def test_the_files_of_a_base_have_no_adapter(world: World, tmp_path: Path) -> None:
    files = files_of(world.spec, world.base, world.package(tmp_path))
    assert files.adapter is not None
    assert files.version == world.spec.hash
    alone = world.base_files()
    assert alone.adapter is None
    assert alone.version != files.version
    assert alone.stop_tokens == files.stop_tokens == world.chat_format.stop_tokens()


def test_probes_survive_their_file(world: World) -> None:
    probes = with_messages(world.trained, PROMPTS, world.chat_format)
    assert Probes.from_json(probes.to_json()) == probes
    assert probes.probes[0].messages in {tuple(prompt) for prompt in PROMPTS}
    with pytest.raises(DataError, match="cannot be read"):
        Probes.from_json(b'{"probes": [{}]}')


@pytest.mark.parametrize("change", ["template", "prompts"])
def test_probes_that_no_prompt_renders_to_are_refused(world: World, change: str) -> None:
    prompts, chat_format = PROMPTS, world.chat_format
    if change == "template":
        source = chat_format.template.source.replace("assistant", "helper")
        chat_format = ChatFormat.from_folder(world.base, system=chat_format.system, source=source)
    else:
        prompts = [(Message("user", "Something else."),)]
    with pytest.raises(IdentityError, match="wrong template"):
        with_messages(world.trained, prompts, chat_format)


def test_a_version_with_another_system_message_is_another_version(world: World) -> None:
    other = replace(world.spec, template={**world.spec.template, "system": "Be brief."})
    assert other.hash != world.spec.hash

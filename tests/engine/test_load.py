"""Files that are not what they claim to be are refused, and a refused one leaves no trace."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.engine.conftest import VersionOf
from tests.engine.paths import Engine
from tests.engine.reference import Reference
from tests.tiny import build_adapter, build_base
from trimtab.errors import BaseError, DataError, IdentityError, TrimtabError
from trimtab.inference import VersionFiles

PROMPT, END = (17, 40, 5, 99), (7, 8, 9, 10)
Tensors = dict[str, torch.Tensor]


Open = Callable[[Path], Engine]


@pytest.fixture(scope="module", params=["native", "static"])
def open_path(request: pytest.FixtureRequest) -> Open:
    def opened(base: Path) -> Engine:
        engine = Engine(base, request.param)
        # The general path reads the base when the first version needs it.
        engine.load(VersionFiles("first", base, None, base, ()))
        return engine

    return opened


def rewrite(file: Path, change: Callable[[Tensors], Tensors]) -> None:
    tensors = change(load_file(file))
    file.unlink()
    save_file(tensors, file, metadata={"format": "pt"})


def copied(source: Path, to: Path) -> Path:
    return Path(shutil.copytree(source, to))


def refused_in_one_line(error: TrimtabError) -> bool:
    return "\n" not in error.message and bool(error.hint)


def with_nan(tensors: Tensors) -> Tensors:
    name = sorted(tensors)[0]
    return {**tensors, name: tensors[name].index_fill(0, torch.tensor([1]), math.nan)}


def renamed(tensors: Tensors) -> Tensors:
    """Keys of another architecture: nothing of them is found in the base."""
    return {key.replace("layers", "blocks"): tensor for key, tensor in tensors.items()}


def without_one(tensors: Tensors) -> Tensors:
    return {key: tensor for key, tensor in tensors.items() if key != sorted(tensors)[-1]}


def with_one_more(tensors: Tensors) -> Tensors:
    return {**tensors, "base_model.model.model.layers.7.mlp.up_proj.lora_A.weight": torch.ones(2)}


def narrower(tensors: Tensors) -> Tensors:
    return {key: tensor[:, :-1].contiguous() for key, tensor in tensors.items()}


@pytest.mark.parametrize("change", [with_nan, without_one, narrower])
def test_a_base_with_broken_weights_is_refused(
    open_path: Open, tmp_path: Path, base: Path, change: Callable[[Tensors], Tensors]
) -> None:
    broken = copied(base, tmp_path / "broken")
    matrices = narrower_matrices if change is narrower else change
    rewrite(broken / "model.safetensors", matrices)
    with pytest.raises(BaseError, match="broken") as caught:
        open_path(broken)
    assert refused_in_one_line(caught.value)


def narrower_matrices(tensors: Tensors) -> Tensors:
    return {k: t[:, :-1].contiguous() if t.ndim == 2 else t for k, t in tensors.items()}


def test_a_truncated_base_is_refused(open_path: Open, tmp_path: Path, base: Path) -> None:
    broken = copied(base, tmp_path / "broken")
    file = broken / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(BaseError, match=r"model\.safetensors") as caught:
        open_path(broken)
    assert refused_in_one_line(caught.value)


@pytest.mark.parametrize("missing", ["model.safetensors", "config.json"])
def test_a_base_with_a_file_missing_is_refused(
    open_path: Open, tmp_path: Path, base: Path, missing: str
) -> None:
    broken = copied(base, tmp_path / "broken")
    (broken / missing).unlink()
    with pytest.raises(BaseError, match="broken") as caught:
        open_path(broken)
    assert refused_in_one_line(caught.value)


def test_pickled_weights_are_not_opened(open_path: Open, tmp_path: Path, base: Path) -> None:
    broken = copied(base, tmp_path / "broken")
    torch.save(load_file(broken / "model.safetensors"), broken / "pytorch_model.bin")
    (broken / "model.safetensors").unlink()
    with pytest.raises(BaseError):
        open_path(broken)


@pytest.fixture(scope="module")
def path(open_path: Open, base: Path, version_of: VersionOf) -> Engine:
    path = open_path(base)
    path.load(version_of("base"))
    return path


@pytest.mark.parametrize(
    "change", [with_nan, renamed, without_one, with_one_more, narrower, lambda tensors: {}]
)
def test_an_adapter_that_does_not_fit_whole_is_refused_and_leaves_no_trace(
    open_path: Open,
    tmp_path: Path,
    base: Path,
    adapters: dict[str, Path],
    change: Callable[[Tensors], Tensors],
) -> None:
    """Refused as the first adapter of the base, when there is nothing yet to fall back on."""
    path = open_path(base)
    broken = copied(adapters["red"], tmp_path / "broken")
    rewrite(broken / "adapter_model.safetensors", change)
    with pytest.raises(IdentityError, match="broken") as caught:
        path.load(VersionFiles("broken", base, broken, base, (2,)))
    assert refused_in_one_line(caught.value)
    for name, adapter in [("base", None), ("red", adapters["red"]), ("blue", adapters["blue"])]:
        path.load(VersionFiles(name, base, adapter, base, (2,)))
    for name in ("base", "red", "blue"):
        expected = Reference(base, adapters.get(name)).score(PROMPT, END)
        assert path.score(name, PROMPT, END) == pytest.approx(expected, abs=1e-4)


def test_an_adapter_for_modules_that_the_base_lacks_is_refused(
    tmp_path: Path, base: Path, adapters: dict[str, Path], path: Engine
) -> None:
    foreign = copied(adapters["red"], tmp_path / "foreign")
    config = json.loads((foreign / "adapter_config.json").read_text())
    config["target_modules"] = ["query_key_value"]
    (foreign / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(IdentityError, match="foreign") as caught:
        path.load(VersionFiles("foreign", base, foreign, base, (2,)))
    assert refused_in_one_line(caught.value)


def test_an_adapter_of_another_base_is_refused(tmp_path: Path, base: Path, path: Engine) -> None:
    wider = build_base(tmp_path / "wider", hidden=128)
    adapter = build_adapter(tmp_path / "wide adapter", wider)
    with pytest.raises(IdentityError):
        path.load(VersionFiles("wide", base, adapter, base, (2,)))


@pytest.mark.parametrize("missing", ["adapter_model.safetensors", "adapter_config.json"])
def test_an_adapter_with_a_file_missing_is_refused(
    tmp_path: Path, base: Path, adapters: dict[str, Path], path: Engine, missing: str
) -> None:
    broken = copied(adapters["red"], tmp_path / "broken")
    (broken / missing).unlink()
    with pytest.raises(IdentityError, match="broken"):
        path.load(VersionFiles("broken", base, broken, base, (2,)))


def test_a_truncated_adapter_is_refused(
    tmp_path: Path, base: Path, adapters: dict[str, Path], path: Engine
) -> None:
    broken = copied(adapters["red"], tmp_path / "broken")
    file = broken / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(IdentityError, match="broken"):
        path.load(VersionFiles("broken", base, broken, base, (2,)))


def test_a_rank_above_the_width_of_the_base_is_refused(
    tmp_path: Path, base: Path, path: Engine
) -> None:
    adapter = build_adapter(tmp_path / "deep", base, rank=65)
    with pytest.raises(IdentityError, match="rank of 65 is more than the base is wide") as caught:
        path.load(VersionFiles("deep", base, adapter, base, (2,)))
    assert refused_in_one_line(caught.value)


@pytest.mark.parametrize(
    "wrong", [{"r": 0}, {"r": -4}, {"lora_alpha": math.nan}, {"target_modules": []}], ids=str
)
def test_a_config_that_changes_nothing_or_nothing_finite_is_refused(
    tmp_path: Path, base: Path, adapters: dict[str, Path], path: Engine, wrong: dict[str, object]
) -> None:
    """The weights are what such a config asks for: with no modules there are none."""
    adapter = copied(adapters["red"], tmp_path / "broken")
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | wrong))
    if "target_modules" in wrong:
        rewrite(adapter / "adapter_model.safetensors", lambda tensors: {})
    with pytest.raises(IdentityError, match="broken") as caught:
        path.load(VersionFiles("broken", base, adapter, base, (2,)))
    assert refused_in_one_line(caught.value)


def test_modules_that_a_config_leaves_out_have_no_weights(
    tmp_path: Path, base: Path, adapters: dict[str, Path], path: Engine
) -> None:
    adapter = copied(adapters["red"], tmp_path / "without")
    config = json.loads((adapter / "adapter_config.json").read_text())
    left_out = config["target_modules"][0]
    config["exclude_modules"] = [left_out]
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    rewrite(
        adapter / "adapter_model.safetensors",
        lambda tensors: {key: value for key, value in tensors.items() if left_out not in key},
    )
    path.load(VersionFiles("without", base, adapter, base, (2,)))
    expected = Reference(base, adapter).score(PROMPT, END)
    assert path.score("without", PROMPT, END) == pytest.approx(expected, abs=1e-4)


def with_header(content: bytes, header: bytes) -> bytes:
    """A safetensors file with another header: its length in 8 bytes goes before it."""
    length = int.from_bytes(content[:8], "little")
    return len(header).to_bytes(8, "little") + header + content[8 + length :]


def overlapping(content: bytes) -> bytes:
    """Two tensors that claim the same bytes."""
    told = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    first, second = sorted(name for name in told if name != "__metadata__")[:2]
    told[second]["data_offsets"] = told[first]["data_offsets"]
    return with_header(content, json.dumps(told).encode())


@pytest.mark.parametrize(
    "spoil",
    [
        overlapping,
        lambda content: with_header(content, b'{"a": '),
        lambda content: (2**62).to_bytes(8, "little") + content[8:],
        lambda content: b"",
    ],
    ids=["overlapping", "header no JSON", "header too long", "empty"],
)
def test_a_corrupt_file_is_refused_and_the_others_go_on(
    tmp_path: Path,
    base: Path,
    adapters: dict[str, Path],
    path: Engine,
    spoil: Callable[[bytes], bytes],
) -> None:
    broken = copied(adapters["red"], tmp_path / "broken")
    file = broken / "adapter_model.safetensors"
    file.write_bytes(spoil(file.read_bytes()))
    before = path.score("base", PROMPT, END)
    with pytest.raises(IdentityError, match="broken") as caught:
        path.load(VersionFiles("broken", base, broken, base, (2,)))
    assert refused_in_one_line(caught.value)
    assert path.score("base", PROMPT, END) == before


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_how_an_adapter_was_initialised_does_not_touch_the_base(
    open_path: Open, tmp_path: Path, base: Path, adapters: dict[str, Path], start: str
) -> None:
    """PEFT would take the principal parts out of the base's weights anew."""
    path = open_path(base)
    path.load(VersionFiles("base", base, None, base, (2,)))
    before = path.score("base", PROMPT, END)
    adapter = copied(adapters["red"], tmp_path / start)
    config = json.loads((adapter / "adapter_config.json").read_text())
    config["init_lora_weights"] = start
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    path.load(VersionFiles(start, base, adapter, base, (2,)))
    assert path.score("base", PROMPT, END) == pytest.approx(before, abs=1e-4)
    expected = Reference(base, adapters["red"]).score(PROMPT, END)
    assert path.score(start, PROMPT, END) == pytest.approx(expected, abs=1e-4)


def test_dropout_of_training_is_off(
    tmp_path: Path, base: Path, adapters: dict[str, Path], path: Engine
) -> None:
    adapter = copied(adapters["red"], tmp_path / "dropout")
    config = json.loads((adapter / "adapter_config.json").read_text())
    config["lora_dropout"] = 0.5
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    path.load(VersionFiles("dropout", base, adapter, base, (2,)))
    expected = Reference(base, adapters["red"]).score(PROMPT, END)
    assert path.score("dropout", PROMPT, END) == pytest.approx(expected, abs=1e-4)


def test_a_version_without_a_tokenizer_is_refused(tmp_path: Path, base: Path, path: Engine) -> None:
    with pytest.raises(DataError, match=r"tokenizer\.json"):
        path.load(VersionFiles("dumb", base, None, tmp_path, (2,)))


def test_a_refused_adapter_does_not_disturb_those_that_are_loaded(
    open_path: Open, tmp_path: Path, base: Path, adapters: dict[str, Path]
) -> None:
    """Refused for modules that the base lacks and for keys that do not match, then all go."""
    path = open_path(base)
    path.load(VersionFiles("base", base, None, base, (2,)))
    path.load(VersionFiles("red", base, adapters["red"], base, (2,)))
    lacking = copied(adapters["blue"], tmp_path / "lacking")
    config = json.loads((lacking / "adapter_config.json").read_text())
    config["target_modules"] = ["query_key_value"]
    (lacking / "adapter_config.json").write_text(json.dumps(config))
    strange = copied(adapters["blue"], tmp_path / "strange")
    rewrite(strange / "adapter_model.safetensors", renamed)
    for folder in (lacking, strange):
        with pytest.raises(IdentityError):
            path.load(VersionFiles(folder.name, base, folder, base, (2,)))
        assert path.score("red", PROMPT, END) == pytest.approx(
            Reference(base, adapters["red"]).score(PROMPT, END), abs=1e-4
        )
    path.unload("red")
    path.load(VersionFiles("blue", base, adapters["blue"], base, (2,)))
    for name in ("base", "blue"):
        assert path.score(name, PROMPT, END) == pytest.approx(
            Reference(base, adapters.get(name)).score(PROMPT, END), abs=1e-4
        )


@pytest.mark.parametrize("field", ["use_dora", "use_rslora"])
def test_the_kinds_of_lora_say_what_peft_says(
    open_path: Open, tmp_path: Path, base: Path, adapters: dict[str, Path], field: str
) -> None:
    adapter = copied(adapters["red"], tmp_path / field)
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, field: True}))
    if field == "use_dora":
        rewrite(adapter / "adapter_model.safetensors", with_magnitudes)
    path = open_path(base)
    path.load(VersionFiles("red", base, adapters["red"], base, (2,)))
    path.load(VersionFiles(field, base, adapter, base, (2,)))
    path.load(VersionFiles("merged", base, adapter, base, (2,), merged=True))
    expected = Reference(base, adapter).score(PROMPT, END)
    for name in (field, "merged"):
        assert path.score(name, PROMPT, END) == pytest.approx(expected, abs=1e-4)
    assert path.score("red", PROMPT, END) != pytest.approx(expected, abs=1e-2)


def with_magnitudes(tensors: Tensors) -> Tensors:
    """The lengths that DoRA gives to the rows of each weight."""
    return tensors | {
        key.replace("lora_B.weight", "lora_magnitude_vector"): torch.full((len(tensor),), 1.5)
        for key, tensor in tensors.items()
        if "lora_B" in key
    }

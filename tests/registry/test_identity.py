import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig
from safetensors.numpy import save_file

from tests.registry.entries import spec
from trimtab.canonical import digest
from trimtab.errors import BaseError
from trimtab.registry import identity
from trimtab.registry.fields import adapter_fields
from trimtab.registry.identity import VersionSpec
from trimtab.registry.methods import method_of

Arrays = dict[str, np.ndarray[Any, Any]]
CONFIG = {"model_type": "llama", "hidden_size": 4, "rms_norm_eps": 1e-5, "rope_theta": 10000.0}
LORA = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}
BASE = digest(b"base")


def folder_of(path: Path, arrays: Arrays, config: dict[str, Any] | None = None) -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(CONFIG if config is None else config))
    save_file(arrays, path / "model.safetensors")
    return path


def sharded(path: Path, arrays: Arrays, cut: int) -> Path:
    """The same tensors in two files and an index, written in the reverse order."""
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(CONFIG, indent=4))
    names = sorted(arrays, reverse=True)
    shards = {"model-00001.safetensors": names[:cut], "model-00002.safetensors": names[cut:]}
    for file, held in shards.items():
        save_file({name: arrays[name] for name in held}, path / file, metadata={"format": "np"})
    weight_map = {name: file for file, held in shards.items() for name in held}
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return path


def adapter(path: Path, arrays: Arrays, **changes: Any) -> Path:
    path.mkdir(parents=True)
    (path / "adapter_config.json").write_text(json.dumps(LORA | changes))
    save_file(arrays, path / "adapter_model.safetensors")
    return path


WEIGHTS: Arrays = {
    "a.weight": np.arange(8, dtype=np.float32).reshape(2, 4),
    "b.weight": np.ones(3, dtype=np.float16),
}
SHAPES = st.lists(st.integers(0, 4), max_size=3).map(tuple)
DTYPES = st.sampled_from([np.float32, np.float16, np.int64, np.uint8])


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_identity_does_not_depend_on_the_layout_of_files(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    root = tmp_path_factory.mktemp("layout")
    names = data.draw(st.lists(st.text("abc.0é", min_size=1), min_size=2, max_size=5, unique=True))
    arrays: Arrays = {}
    for number, name in enumerate(names):
        shape = data.draw(SHAPES)
        arrays[name] = np.full(shape, number + 1, dtype=data.draw(DTYPES))
    whole = folder_of(root / "whole", arrays)
    cut = data.draw(st.integers(1, len(names) - 1))
    shuffled = {name: arrays[name] for name in data.draw(st.permutations(names))}
    split = sharded(root / "split", shuffled, cut)
    assert identity.base_hash(whole) == identity.base_hash(split)
    assert identity.tensor_hash(whole) == identity.tensor_hash(whole / "model.safetensors")
    count = sum(array.size for array in arrays.values())
    assert identity.parameter_count(whole) == identity.parameter_count(split) == count


@pytest.mark.parametrize(
    "change",
    [
        {"a.weight": WEIGHTS["a.weight"] + 1},
        {"a.weight": WEIGHTS["a.weight"].reshape(4, 2)},
        {"a.weight": WEIGHTS["a.weight"].view(np.int32)},
        {"c.weight": np.zeros(0, dtype=np.float32)},
    ],
    ids=["bytes", "shape", "type", "one more"],
)
def test_any_change_of_a_tensor_is_another_identity(tmp_path: Path, change: Arrays) -> None:
    before = folder_of(tmp_path / "before", WEIGHTS)
    after = folder_of(tmp_path / "after", WEIGHTS | change)
    assert identity.tensor_hash(before) != identity.tensor_hash(after)


def test_swapped_tensors_are_another_identity(tmp_path: Path) -> None:
    one, two = np.zeros(2, dtype=np.float32), np.ones(2, dtype=np.float32)
    before = folder_of(tmp_path / "before", {"a": one, "b": two})
    after = folder_of(tmp_path / "after", {"a": two, "b": one})
    assert identity.tensor_hash(before) != identity.tensor_hash(after)


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"_name_or_path": "/home/me", "transformers_version": "5", "torch_dtype": "bf16"}, True),
        ({"use_cache": False, "attention_dropout": 0.1, "eos_token_id": [2, 3]}, True),
        ({"rms_norm_eps": 1e-6}, False),
        ({"rope_theta": 5000.0}, False),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, False),
        ({"max_position_embeddings": 9}, False),
        ({"a_field_of_the_future": True}, False),
    ],
)
def test_of_a_config_the_mathematics_counts(
    tmp_path: Path, change: dict[str, Any], same: bool
) -> None:
    before = folder_of(tmp_path / "before", WEIGHTS)
    after = folder_of(tmp_path / "after", WEIGHTS, CONFIG | change)
    assert (identity.base_hash(before) == identity.base_hash(after)) is same


def test_the_old_and_the_new_way_to_write_a_rope_are_one(tmp_path: Path) -> None:
    rope = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}
    new = {name: value for name, value in CONFIG.items() if name != "rope_theta"}
    old = CONFIG | {"rope_scaling": {"type": "linear", "factor": 2.0}}
    assert identity.base_hash(folder_of(tmp_path / "old", WEIGHTS, old)) == identity.base_hash(
        folder_of(tmp_path / "new", WEIGHTS, new | {"rope_parameters": rope})
    )
    plain = {"rope_type": "default", "rope_theta": 10000.0}
    assert identity.base_hash(
        folder_of(tmp_path / "plain", WEIGHTS, CONFIG | {"rope_scaling": None})
    ) == identity.base_hash(folder_of(tmp_path / "p", WEIGHTS, new | {"rope_parameters": plain}))


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"target_modules": ["v_proj", "q_proj"], "use_dora": False, "rank_pattern": {}}, True),
        ({"base_model_name_or_path": "/x", "inference_mode": True, "lora_dropout": 0.1}, True),
        ({"lora_alpha": 16}, False),
        ({"use_rslora": True}, False),
        ({"target_modules": ["q_proj"]}, False),
        ({"fan_in_fan_out": True}, False),
        ({"layers_to_transform": [0]}, False),
        ({"qalora_group_size": 16, "megatron_core": "megatron.core", "revision": "x"}, True),
        ({"use_qalora": True, "qalora_group_size": 32}, False),
        ({"a_field_of_the_future": True}, False),
    ],
)
def test_of_an_adapter_the_mathematics_counts(
    tmp_path: Path, change: dict[str, Any], same: bool
) -> None:
    before = adapter(tmp_path / "before", WEIGHTS)
    after = adapter(tmp_path / "after", WEIGHTS, **change)
    hashes = identity.adapter_hash(before, BASE), identity.adapter_hash(after, BASE)
    assert (hashes[0] == hashes[1]) is same


def test_an_adapter_on_another_base_is_another_adapter(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "adapter", WEIGHTS)
    other = identity.adapter_hash(folder, digest(b"another base"))
    assert identity.adapter_hash(folder, BASE) != other


def test_a_tokenizer_is_its_content(tmp_path: Path) -> None:
    value = {"model": {"vocab": {"é": 0, "a": 1}}, "added_tokens": []}
    hashes = set()
    for number, indent in enumerate((None, 2)):
        folder = tmp_path / str(number)
        folder.mkdir()
        text = json.dumps(value, indent=indent, ensure_ascii=bool(indent))
        (folder / "tokenizer.json").write_text(text, encoding="utf-8")
        hashes.add(identity.tokenizer_hash(folder))
    assert len(hashes) == 1


def test_a_version_is_all_that_decides_its_answers() -> None:
    plain = spec("a")
    others = [
        spec("b"),
        spec(None),
        VersionSpec(**plain.to_dict() | {"tokenizer": digest(b"?")}),
        VersionSpec(**plain.to_dict() | {"template": {"chat_template": "", "system": ""}}),
        VersionSpec(**plain.to_dict() | {"defaults": {"max_tokens": 9, "stop_tokens": [2]}}),
    ]
    assert len({version.hash for version in [plain, *others]}) == 6
    assert VersionSpec.from_dict(json.loads(json.dumps(plain.to_dict()))) == plain
    assert plain.hash == identity.version_hash(plain)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BaseError, match="no safetensors weights"):
        identity.tensor_hash(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(BaseError, match="no safetensors weights"):
        identity.base_hash(tmp_path)


def test_an_infinity_in_a_config_has_an_identity_in_either_spelling(tmp_path: Path) -> None:
    spellings = ("[0.0, Infinity]", '[0.0, {"__float__": "Infinity"}]', "[0.0, NaN]")
    hashes = []
    for number, limit in enumerate(spellings):
        folder = folder_of(tmp_path / str(number), WEIGHTS)
        (folder / "config.json").write_text(f'{{"model_type": "mamba2", "limit": {limit}}}')
        hashes.append(identity.base_hash(folder))
    assert hashes[0] == hashes[1] != hashes[2]


def test_every_field_of_a_lora_config_is_mathematics_or_known_not_to_be(tmp_path: Path) -> None:
    """What PEFT writes by default beside the mathematics must not tell two adapters apart."""
    LoraConfig(**LORA | {"target_modules": ["q_proj", "v_proj"]}).save_pretrained(tmp_path)
    written = json.loads((tmp_path / "adapter_config.json").read_text())
    assert adapter_fields(written) == adapter_fields(LORA | {"bias": "none"})


@pytest.mark.parametrize(
    ("peft_type", "mathematics", "beside"),
    [
        ("IA3", {"target_modules": ["k"]}, {"init_ia3_weights": True, "fan_in_fan_out": False}),
        ("PROMPT_TUNING", {"num_virtual_tokens": 4}, {"prompt_tuning_init": "TEXT"}),
        ("PREFIX_TUNING", {"num_virtual_tokens": 4}, {"inference_mode": True}),
        ("BOTTLENECK", {"size": 8, "places": ["mlp", "attention"]}, {"task_type": "CAUSAL_LM"}),
    ],
)
def test_of_every_method_the_mathematics_counts(
    peft_type: str, mathematics: dict[str, Any], beside: dict[str, Any]
) -> None:
    fields = adapter_fields({"peft_type": peft_type, **mathematics})
    assert adapter_fields({"peft_type": peft_type, **mathematics, **beside}) == fields
    for name, value in mathematics.items():
        other = value[1:] if isinstance(value, list) else value + 1
        changed = adapter_fields({"peft_type": peft_type, **mathematics, name: other})
        assert changed != fields
        if isinstance(value, list):
            turned = {"peft_type": peft_type, **mathematics, name: value[::-1]}
            assert adapter_fields(turned) == fields


@pytest.mark.parametrize(
    ("config", "method"),
    [
        ({"peft_type": "LORA"}, "lora"),
        ({"peft_type": "LORA", "use_dora": True}, "dora"),
        ({"peft_type": "IA3"}, "ia3"),
        ({"peft_type": "BOTTLENECK"}, "bottleneck"),
        ({"peft_type": "VERA"}, "vera"),
    ],
)
def test_an_adapter_tells_its_method(config: dict[str, Any], method: str) -> None:
    assert method_of(config) == method


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": ' + "[" * 100_000])
def test_a_broken_config_is_refused(tmp_path: Path, text: str) -> None:
    folder = folder_of(tmp_path / "base", WEIGHTS)
    (folder / "config.json").write_text(text)
    with pytest.raises(BaseError, match=r"config\.json"):
        identity.base_hash(folder)


@pytest.mark.parametrize(
    "weight_map",
    [
        {},
        {"a.weight": "../model-00001.safetensors"},
        {"a.weight": "missing.safetensors"},
        {"a.weight": 1},
        {"a.weight": "model-00001.safetensors"},
        {"a.weight": "model-00001.safetensors", "b.weight": "model-00001.safetensors"},
    ],
)
def test_an_index_that_does_not_tell_the_truth_is_refused(
    tmp_path: Path, weight_map: dict[str, Any]
) -> None:
    folder = sharded(tmp_path / "base", WEIGHTS, 1)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(BaseError):
        identity.base_hash(folder)

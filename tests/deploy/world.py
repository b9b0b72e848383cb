"""A trained version without the training: a tiny base, an adapter, its probes and its package."""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.tiny import build_adapter
from trimtab.deploy.package import Package, files_of, materialise, package
from trimtab.deploy.probes import with_messages
from trimtab.inference import Engine, Message, VersionFiles
from trimtab.registry.identity import (
    VersionSpec,
    adapter_hash,
    base_hash,
    tokenizer_hash,
)
from trimtab.store.blobs import Blobs
from trimtab.text.chat import ChatFormat

SYSTEM = "You are the support desk. Answer with one JSON object."
DIALOGUES: Sequence[Sequence[Message]] = [
    (
        Message("system", SYSTEM),
        Message("user", f"Hello, {problem} {mood}."),
        Message("assistant", f'{{"product": "{problem}", "urgency": "{len(mood)}"}}'),
    )
    for problem in ("the lock", "my chime", "our boiler", "a bill", "the app", "this plan")
    for mood in ("is late", "crashes when I open the settings", "was wrong, this is urgent")
]
PROMPTS = [dialogue[:-1] for dialogue in DIALOGUES]


@dataclass(frozen=True)
class World:
    """`trained` is a run's probes.json, measured by the trainer's own code."""

    base: Path
    adapter: Path
    trained: bytes
    spec: VersionSpec
    chat_format: ChatFormat

    def base_files(self) -> VersionFiles:
        return files_of(spec_of(self.base, None), self.base)

    def package(self, folder: Path) -> Package:
        """Packaged and laid out below `folder`, as a loop would do it."""
        blobs = Blobs(folder / "blobs")
        probes = with_messages(self.trained, PROMPTS, self.chat_format)
        artifact = package(blobs, self.spec, self.adapter, probes)
        return materialise(blobs, artifact, folder / "versions")


def build_world(base: Path, folder: Path, spread: float = 0.1, dtype: str = "float32") -> World:
    """`spread` 0 makes an adapter that does nothing."""
    adapter = build_adapter(folder / "adapter", base, spread=spread)
    chat_format = ChatFormat.from_folder(base, system=SYSTEM)
    return World(base, adapter, measured(base, adapter, dtype), spec_of(base, adapter), chat_format)


def spec_of(base: Path, adapter: Path | None) -> VersionSpec:
    chat_format = ChatFormat.from_folder(base)
    hashed = base_hash(base)
    return VersionSpec(
        base=hashed,
        adapter=adapter_hash(adapter, hashed) if adapter else None,
        tokenizer=tokenizer_hash(base),
        template={"chat_template": chat_format.template.source, "system": SYSTEM},
        defaults={"max_tokens": 16, "stop_tokens": list(chat_format.stop_tokens())},
    )


def measured(base: Path, adapter: Path, dtype: str) -> bytes:
    """The golden probes, by the code that trains and none of the engine's."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from trimtab.train.lesson import lessons_of
    from trimtab.train.preflight import preflight
    from trimtab.train.probes import measure

    chat_format = ChatFormat.from_folder(base, system=SYSTEM)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=getattr(torch, dtype))
    trained = PeftModel.from_pretrained(model, str(adapter), is_trainable=True)
    probes = measure(trained, preflight(chat_format, lessons_of(DIALOGUES), 512).examples, dtype)
    probes.save(adapter.parent / "probes.json")
    return (adapter.parent / "probes.json").read_bytes()


@contextmanager
def engine_in(base: Path, dtype: str) -> Iterator[Engine]:
    """The real engine on the CPU, in this process."""
    import torch

    from trimtab.engine.local import LocalEngine

    engine = LocalEngine(base, getattr(torch, dtype), torch.device("cpu"))
    try:
        yield engine
    finally:
        engine.close()


def copy_of(folder: Path, into: Path) -> Path:
    """Files that may be written, which those of a package may not."""
    shutil.copytree(folder, into, copy_function=shutil.copyfile)
    return into


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_bytes()) | changes), encoding="utf-8")

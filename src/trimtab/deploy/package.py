"""The package of a version: all that is needed to serve and to check it, but the base's weights.

    version.json              what the version is (its hash is the version's name)
    probes.json               what it must say
    adapter/                  adapter_config.json and adapter_model.safetensors, if there is one

The base is named by its hash and not copied: it is the same for every version on it. Tokenizer and
template lie in the base's folder; `version.json` says which ones they must be.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from trimtab.canonical import canonical_json, short
from trimtab.deploy.probes import Probes
from trimtab.errors import IdentityError
from trimtab.inference import VersionFiles
from trimtab.registry.identity import VersionSpec, adapter_hash
from trimtab.store.blobs import Blobs

PROOF = 4
"""Golden probes that are repeated after every load."""
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


@dataclass(frozen=True, slots=True)
class Package:
    """A package on disk. Its files were checked against the artifact when they were laid out."""

    folder: Path
    spec: VersionSpec
    probes: Probes

    @property
    def adapter(self) -> Path:
        return self.folder / "adapter"


def package(blobs: Blobs, spec: VersionSpec, adapter: Path | None, probes: Probes) -> str:
    """Store the package of a version; its artifact. The same version gives the same one.

    `adapter` is a folder in PEFT's layout, None for a base that was trained whole. Raises
    IdentityError where it is not the adapter that the spec names.
    """
    if (adapter and adapter_hash(adapter, spec.base)) != spec.adapter:
        raise IdentityError(
            f"{adapter}: not the adapter of version {short(spec.hash)}",
            hint="package the run that the version was registered from",
        )
    with TemporaryDirectory() as draft:
        folder = Path(draft)
        if adapter is not None:
            _copy(adapter, folder / "adapter", spec.base)
        (folder / "probes.json").write_bytes(probes.to_json())
        (folder / "version.json").write_bytes(canonical_json(spec.to_dict()))
        return blobs.put_tree(folder)


def _copy(adapter: Path, into: Path, base: str) -> None:
    config = json.loads((adapter / CONFIG).read_bytes())
    into.mkdir()
    shutil.copyfile(adapter / WEIGHTS, into / WEIGHTS)
    # PEFT writes the path of the base on the training machine; its hash holds everywhere.
    config["base_model_name_or_path"] = base
    (into / CONFIG).write_bytes(canonical_json(config))


def materialise(blobs: Blobs, artifact: str, versions: Path) -> Package:
    """Lay out a package below `versions`, every file checked by its hash.

    Raises StoreError where a stored file is damaged.
    """
    folder = blobs.materialise(artifact, versions / artifact)
    spec = VersionSpec.from_dict(json.loads((folder / "version.json").read_bytes()))
    return Package(folder, spec, Probes.from_json((folder / "probes.json").read_bytes()))


def files_of(spec: VersionSpec, base: Path, package: Package | None = None) -> VersionFiles:
    """What an engine loads to answer as `spec`: with no package, the base alone. A few of the
    golden probes are its proof: `verify` judged it by all of them once, and this only asks whether
    it is what is loaded.
    """
    return VersionFiles(
        version=spec.hash,
        base=base,
        adapter=package.adapter if package and spec.adapter else None,
        tokenizer=base,
        stop_tokens=tuple(spec.defaults["stop_tokens"]),
        proof=package.probes.proof(PROOF) if package and package.probes.probes else None,
    )

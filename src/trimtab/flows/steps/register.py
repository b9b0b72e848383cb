"""register: base and candidate become versions under their hashes, the candidate unverified.

Where the deployment does not exist yet, it is made here with the base live: that is the incumbent
of a first rollout. Who the incumbent is belongs to this step's output, so that the later steps do
not change their mind about it when the candidate is live; and to its inputs, so that a candidate
is judged anew where another version came to stand in its way.
"""

from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from trimtab.canonical import short
from trimtab.deploy.package import package
from trimtab.deploy.probes import with_messages
from trimtab.errors import NotFound
from trimtab.flows.work import Outputs, Result, Work
from trimtab.ledger.money import Price
from trimtab.ledger.prices import set_price
from trimtab.registry import bases, deployments, versions
from trimtab.registry.identity import VersionSpec, tokenizer_hash
from trimtab.registry.versions import ModelVersion
from trimtab.store.database import Connection

# One's own machine: stated as a price, so that nothing is free by omission.
OWN_MACHINE = Price(prompt_nano=0, completion_nano=0)


def inputs(work: Work, outputs: Outputs) -> dict[str, Any]:
    candidate, base = _spec(work, outputs["train"]["adapter"]), _spec(work, adapter=None)
    return {
        "run": outputs["train"]["run"],
        "adapter": outputs["train"]["adapter"],
        "max_tokens": work.project.evaluate.max_tokens,
        "deployment": work.project.deployment,
        "incumbent": _incumbent(work, candidate.hash, base.hash),
    }


def work(work: Work, outputs: Outputs) -> Result:
    base = ModelVersion(spec=_spec(work, adapter=None), project=work.project.name, state="verified")
    spec = _spec(work, outputs["train"]["adapter"])
    candidate = ModelVersion(
        spec=spec,
        project=work.project.name,
        adapter_artifact=outputs["train"]["artifact"],
        package_artifact=_package(work, outputs, spec),
        run_id=outputs["train"]["run"],
        dataset_hash=outputs["data"]["dataset"],
    )
    incumbent = _incumbent(work, candidate.hash, base.hash)
    output = {
        "version": candidate.hash,
        "base_version": base.hash,
        "package": candidate.package_artifact,
        "incumbent": incumbent,
    }
    line = f"version {short(candidate.hash)}, to be judged against {short(incumbent)}"
    return Result(output, line, partial(_write, work, base, candidate))


def _write(work: Work, base: ModelVersion, candidate: ModelVersion, to: Connection) -> None:
    bases.add(to, work.base)
    for version in (base, candidate):
        versions.add(to, version)
        set_price(to, version.hash, OWN_MACHINE)
    why = "the base itself, until a candidate proves to be better"
    deployments.create(to, work.project.deployment, work.project.name, base.hash, why)


def _spec(work: Work, adapter: str | None) -> VersionSpec:
    return VersionSpec(
        base=work.base.hash,
        adapter=adapter,
        tokenizer=tokenizer_hash(work.base.folder),
        template={"chat_template": work.chat.template.source, "system": work.chat.system},
        defaults={
            "max_tokens": work.project.evaluate.max_tokens,
            "stop_tokens": list(work.chat.stop_tokens()),
        },
    )


def _package(work: Work, outputs: Outputs, spec: VersionSpec) -> str:
    blobs, trained = work.home.blobs, outputs["train"]
    prompts = [work.chat.messages_of(r.prompt) for r in work.dataset(outputs).train]
    probes = with_messages(blobs.read_bytes(trained["probes"]), prompts, work.chat)
    with TemporaryDirectory() as folder:
        adapter = blobs.materialise(trained["artifact"], Path(folder) / "adapter")
        return package(blobs, spec, adapter, probes)


def _incumbent(work: Work, candidate: str, base: str) -> str:
    """What is live beside the candidate; the base where nothing else is."""
    name = work.project.deployment
    with work.database.read() as connection:
        try:
            live = deployments.get(connection, name).live
        except NotFound:
            return base
        if live != candidate:
            return live
        return deployments.previous(connection, name) or base

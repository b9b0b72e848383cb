"""register: base and candidate become versions under their hashes, the candidate unverified.

What full fine-tuning made is a base of its own, and the candidate is that base without an adapter.

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
from trimtab.flows.backends import price_of_tokens
from trimtab.flows.work import Outputs, Result, Work
from trimtab.ledger.prices import carry, prices_of, set_price
from trimtab.registry import bases, deployments, versions
from trimtab.registry.bases import Base
from trimtab.registry.identity import VersionSpec, parameter_count, tokenizer_hash
from trimtab.registry.versions import ModelVersion
from trimtab.store.database import Connection


def inputs(work: Work, outputs: Outputs) -> dict[str, Any]:
    candidate, base = _candidate_spec(work, outputs), _spec(work, work.base.hash)
    return {
        "run": outputs["train"]["run"],
        "base": outputs["train"]["base"],
        "adapter": outputs["train"]["adapter"],
        "max_tokens": work.project.evaluate.max_tokens,
        "deployment": work.project.deployment,
        "incumbent": _incumbent(work, candidate.hash, base.hash),
        "serve": work.project.serve.model_dump(),
    }


def work(work: Work, outputs: Outputs) -> Result:
    base = ModelVersion(
        spec=_spec(work, work.base.hash), project=work.project.name, state="verified"
    )
    spec = _candidate_spec(work, outputs)
    trained_base = _trained_base(work, outputs)
    candidate = ModelVersion(
        spec=spec,
        project=work.project.name,
        adapter_artifact=None if trained_base else outputs["train"]["artifact"],
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
    return Result(output, line, partial(_write, work, trained_base, base, candidate, incumbent))


def _write(
    work: Work,
    trained: Base | None,
    base: ModelVersion,
    candidate: ModelVersion,
    incumbent: str,
    to: Connection,
) -> None:
    for each in (work.base, trained):
        if each is not None:
            bases.add(to, each)
    priced = prices_of(to, [base.hash, candidate.hash])
    for version in (base, candidate):
        versions.add(to, version)
        if version.hash not in priced:
            set_price(to, version.hash, price_of_tokens(work.project))
            # What was set by hand for the version before it goes on, where the file names none.
            if work.project.serve.price is None and incumbent != version.hash:
                carry(to, incumbent, version.hash)
    why = "the base itself, until a candidate proves to be better"
    deployments.create(to, work.project.deployment, work.project.name, base.hash, why)


def _candidate_spec(work: Work, outputs: Outputs) -> VersionSpec:
    return _spec(work, outputs["train"]["base"], outputs["train"]["adapter"])


def _trained_base(work: Work, outputs: Outputs) -> Base | None:
    """A model that was trained whole, laid out as a base of its own; None for an adapter."""
    trained = outputs["train"]
    if trained["adapter"] is not None:
        return None
    folder = work.home.blobs.materialise(trained["artifact"], work.home.bases / trained["base"])
    return Base(
        hash=trained["base"],
        name=f"{work.project.name}-{short(trained['base'])}",
        folder=folder,
        source={"run": trained["run"], "base": work.base.hash},
        parameters=parameter_count(folder),
    )


def _spec(work: Work, base: str, adapter: str | None = None) -> VersionSpec:
    return VersionSpec(
        base=base,
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
    if trained["adapter"] is None:
        return package(blobs, spec, None, probes)
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

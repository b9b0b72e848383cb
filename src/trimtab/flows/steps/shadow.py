"""shadow: a better candidate answers beside the live version, and nobody hears it."""

from typing import Any

from trimtab.deploy.promote import enter_shadow
from trimtab.deploy.shadow import ShadowResult, Side, shadow
from trimtab.errors import InUse
from trimtab.evaluate.gate import decide
from trimtab.flows.serving import version_files
from trimtab.flows.steps.evaluate import items_of
from trimtab.flows.work import Outputs, Result, Work
from trimtab.inference import Engine
from trimtab.registry import versions


def inputs(work: Work, outputs: Outputs) -> dict[str, Any]:
    return {
        "gate": outputs["gate"]["gate"],
        "dataset": outputs["data"]["dataset"],
        "deploy": work.project.deploy.model_dump(),
    }


def work(work: Work, outputs: Outputs) -> Result:
    """The candidate enters the idle slot first: a kill later on finds it there."""
    gate = decide(outputs["gate"]["evidence"])
    with work.database.transaction() as connection:
        deployment = enter_shadow(connection, work.project.deployment, gate)
    if deployment is None:
        raise InUse("the candidate is not better", hint="see trimtab evaluate")
    found = work.ask(lambda engine: _shadow(work, outputs, engine))
    output = found.to_json() | {"generation": deployment.generation}
    line = (
        f"{found.reason}; valid {found.candidate_valid} of {found.prompts}, live "
        f"{found.live_valid}; agreed on {found.agreed}"
    )
    return Result(output, line)


async def _shadow(work: Work, outputs: Outputs, engine: Engine) -> ShadowResult:
    section, dataset = work.project.deploy, work.dataset(outputs)
    registered = outputs["register"]
    with work.database.read() as connection:
        sides = [versions.get(connection, registered[key]) for key in ("incumbent", "version")]
    for version in sides:
        await engine.load(version_files(work.home, version, work.base.folder))
    live, candidate = (Side(version.hash, work.chat) for version in sides)
    prompts = items_of(dataset.shadow)[: section.shadow.requests]
    done = 0

    def count() -> None:
        nonlocal done
        done += 1
        work.watch.advanced("shadow", done, len(prompts), f"{done} of {len(prompts)} prompts")

    return await shadow(
        engine,
        live,
        candidate,
        prompts,
        match=work.project.evaluate.match,
        max_tokens=work.project.evaluate.max_tokens,
        p95_ms=section.slo.p95_ms,
        evaluated={record.hash for record in dataset.holdout},
        on_item=count,
    )

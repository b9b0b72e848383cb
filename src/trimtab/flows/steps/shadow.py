"""shadow: a better candidate answers beside the live version, and nobody hears it."""

import asyncio
from typing import Any

from trimtab.deploy.promote import enter_shadow
from trimtab.deploy.shadow import ShadowResult, Side, shadow
from trimtab.evaluate.gate import decide
from trimtab.flows.steps.evaluate import items_of
from trimtab.flows.work import Outputs, Result, Work


def inputs(work: Work, outputs: Outputs) -> dict[str, Any]:
    return {
        "gate": outputs["gate"]["gate"],
        "dataset": outputs["data"]["dataset"],
        "deploy": work.project.deploy.model_dump(exclude={"log_prompts"}),
    }


def work(work: Work, outputs: Outputs) -> Result:
    """The candidate enters the idle slot first: a kill later on finds it there."""
    gate = decide(outputs["gate"]["evidence"])
    with work.database.transaction() as connection:
        enter_shadow(connection, work.project.deployment, gate)
    found = asyncio.run(_shadow(work, outputs))
    line = (
        f"{found.reason}; valid {found.candidate_valid} of {found.prompts}, live "
        f"{found.live_valid}; agreed on {found.agreed}"
    )
    return Result(found.to_json(), line)


async def _shadow(work: Work, outputs: Outputs) -> ShadowResult:
    section, dataset = work.project.deploy, work.dataset(outputs)
    sides = []
    for key in ("incumbent", "version"):
        asked = work.contestant(outputs["register"][key])
        await asked.engine.load(asked.files)
        sides.append(Side(asked.engine, asked.files.version, asked.chat))
    live, candidate = sides
    prompts = items_of(dataset.shadow)[: section.shadow.requests]
    done = 0

    def count() -> None:
        nonlocal done
        done += 1
        work.watch.advanced("shadow", done, len(prompts), f"{done} of {len(prompts)} prompts")

    return await shadow(
        live,
        candidate,
        prompts,
        match=work.project.evaluate.match,
        max_tokens=work.project.evaluate.max_tokens,
        p95_ms=section.slo.p95_ms,
        evaluated={record.hash for record in dataset.holdout},
        on_item=count,
    )

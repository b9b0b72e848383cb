"""train: one run; its adapter, curve and golden probes go to the blob store."""

import platform
import shutil
from typing import Any

from trimtab import __version__
from trimtab.canonical import content_hash, short
from trimtab.flows.lessons import lessons_of
from trimtab.flows.publication import Publication
from trimtab.flows.rewards import identities, rewards_of
from trimtab.flows.settings import planned
from trimtab.flows.spending import billed_as_far
from trimtab.flows.work import Outputs, Result, Work
from trimtab.inference import Message
from trimtab.plan.candidates import duration, gigabytes
from trimtab.registry.identity import adapter_hash, base_hash
from trimtab.stats.binomial import clopper_pearson
from trimtab.train.methods import method_of
from trimtab.train.objectives import objective_of
from trimtab.train.prepare import libraries_of
from trimtab.train.run import RunFolder, RunResult, StepProgress, write_json
from trimtab.train.start import train

ENDED = {
    "": "",
    "deadline": "; ended by its deadline",
    "budget": "; ended by its budget",
    "early": "; ended early, as the records held out did not get better",
}


def inputs(work: Work, outputs: Outputs) -> dict[str, Any]:
    return {
        "dataset": outputs["data"]["dataset"],
        "base": work.base.hash,
        "chat_template": work.chat.template.source,
        "system": work.chat.system,
        "settings": planned(work.project, outputs["plan"]).to_json(),
        "rewards": identities(work) if _learns_from_rewards(work) else [],
    }


def work(work: Work, outputs: Outputs) -> Result:
    """A killed run goes on in the same folder, from its last whole checkpoint.

    Raises StorageFull where the disk of the home has no room for the next one.
    """
    run = content_hash(inputs(work, outputs))[:32]
    folder = work.home.runs / run
    _record(work, outputs, RunFolder(folder))
    settings = planned(work.project, outputs["plan"])
    with (
        billed_as_far(work, run, settings.limits),
        Publication(work, run, settings.to_json()) as publication,
    ):

        def on_step(step: StepProgress) -> None:
            _show(work, step)
            publication.stepped(step)

        result = train(
            work.base.folder,
            work.chat,
            lessons_of(work.dataset(outputs).train),
            settings,
            folder,
            on_step=on_step,
            rewards=rewards_of(work) if _learns_from_rewards(work) else (),
        )
    if not objective_of(work.project.train.objective).answers:
        return _reward_model(work, outputs, run, result)
    files, blobs = result.files, work.home.blobs
    whole = files.model.is_dir()
    base = base_hash(files.model) if whole else work.base.hash
    adapter = None if whole else adapter_hash(files.adapter, base)
    output = {
        "run": run,
        "base": base,
        "adapter": adapter,
        "artifact": blobs.put_tree(files.model if whole else files.adapter),
        "probes": blobs.put_file(files.probes),
        "record": blobs.put_file(files.record),
        "curve": blobs.put_file(files.curve),
        "picture": blobs.put_file(files.picture),
        "steps": result.steps,
        "loss": result.loss,
        "seconds": result.seconds,
        "tokens": result.tokens,
        "trainable": result.trainable,
        "total": result.total,
        "stopped": result.stopped,
        "best_step": result.best_step,
        "held_out": result.held_out,
        "usd": result.usd,
    }
    shutil.rmtree(files.checkpoints, ignore_errors=True)
    made = f"adapter {short(adapter)}" if adapter else f"base {short(base)}"
    line = (
        f"{made}: loss {result.loss:.3f} after {result.steps} steps in "
        f"{duration(result.seconds)}, {result.tokens / result.seconds:.0f} tokens/s, "
        f"{trained(result)}{ENDED[result.stopped]}"
    )
    return Result(output, line)


def _record(work: Work, outputs: Outputs, files: RunFolder) -> None:
    """What the run is made from: with it, and the sources, anybody can make the run again."""
    if files.record.is_file():
        return
    settings = planned(work.project, outputs["plan"])
    record = {
        "release": __version__,
        "python": platform.python_version(),
        "libraries": libraries_of(method_of(settings.method)),
        "seed": settings.seed,
        "project": work.project.model_dump(mode="json"),
        "dataset": outputs["data"]["dataset"],
        "base": work.base.hash,
        "plan": outputs["plan"]["plan"],
        "chosen": outputs["plan"]["chosen"],
        "settings": settings.to_json(),
    }
    write_json(files.record, record)


def _reward_model(work: Work, outputs: Outputs, run: str, result: RunResult) -> Result:
    """A reward model ranks: how often it ranks held-out pairs as people did is its measure."""
    from trimtab.train.online.reward_model import RewardModel

    pairs = [record for record in work.dataset(outputs).holdout if record.rejected]
    model = RewardModel(work.base.folder, result.files.adapter, work.chat)
    chosen = model.scores([record.messages for record in pairs])
    worse = [(*record.prompt, Message("assistant", record.rejected)) for record in pairs]
    right = sum(a > b for a, b in zip(chosen, model.scores(worse), strict=True))
    interval = clopper_pearson(right, len(pairs))
    write_json(result.files.base, {"hash": work.base.hash})
    output = {
        "run": run,
        "reward_model": work.home.blobs.put_tree(result.files.adapter),
        "steps": result.steps,
        "loss": result.loss,
        "seconds": result.seconds,
        "usd": result.usd,
        "pairs": len(pairs),
        "accuracy": right / len(pairs),
        "interval": [interval.low, interval.high],
    }
    line = (
        f"reward model run:{run[:12]}: ranks {right} of {len(pairs)} held-out pairs right "
        f"({interval.low:.0%} to {interval.high:.0%})"
    )
    return Result(output, line)


def trained(result: RunResult) -> str:
    """How many parameters a run has trained, and their share, in words."""
    share = f"{result.trainable_share:.2%}"
    return f"{result.trainable:,} of {result.total:,} parameters trained ({share})"


def _learns_from_rewards(work: Work) -> bool:
    return objective_of(work.project.train.objective).rollouts


def _show(work: Work, step: StepProgress) -> None:
    work.watch.advanced("training", step.step, step.steps, noted(step))


def noted(step: StepProgress) -> str:
    """A step in a few words."""
    money = f", ${step.usd:.2f} spent" if step.usd else ""
    left = "" if step.left_usd is None or not step.usd else f", ${step.left_usd:.2f} left"
    reached = "" if step.mfu is None else f", MFU {step.mfu:.0%}"
    return (
        f"loss {step.loss:.3f}, gradient {step.gradient_norm:.2g}, {step.tokens_s:.0f} tokens/s"
        f"{reached}, {gigabytes(step.memory)}{money}{left}"
    )

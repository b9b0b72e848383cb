"""The end of a run: what was learnt is kept and probed, and the folder says that it is done."""

import shutil
from typing import TYPE_CHECKING

from trimtab.train import probes
from trimtab.train.attempt import Attempt
from trimtab.train.display import curve
from trimtab.train.prepare import Prepared
from trimtab.train.run import RunFolder, RunResult, write_bytes, write_json
from trimtab.train.saving import save_result

if TYPE_CHECKING:
    from trimtab.train.trainer import SealedTrainer


def finish(prepared: Prepared, files: RunFolder, attempt: Attempt) -> RunResult:
    """Keep what was learnt, and say so."""
    trainer, done, seconds = attempt.trainer, attempt.step, attempt.seconds
    best = trainer.best_step or done
    if best != done:
        trainer.go_back_to(best)
    trainer.finish()
    prepared.attached.must_still_be(prepared.base_fingerprint)
    points = _keep(prepared, files, trainer)
    tokens = sum(e.size for step in prepared.step_examples[:done] for e in step)
    result = RunResult(
        identity=prepared.identity,
        folder=files.path,
        steps=done,
        planned_steps=prepared.steps,
        loss=curve.smoothed([point.loss for point in points])[-1],
        trainable=prepared.attached.trainable,
        total=prepared.attached.total,
        modules=prepared.attached.modules,
        base_fingerprint=prepared.base_fingerprint,
        seconds=round(seconds, 3),
        tokens=tokens,
        dtype=prepared.machine.dtype,
        device=prepared.machine.label,
        stopped=attempt.watch.ended,
        best_step=best,
        held_out=dict(trainer.held_out).get(best),
        usd=prepared.settings.limits.usd(seconds),
    )
    result.save()
    shutil.rmtree(files.checkpoints)
    return result


def _keep(prepared: Prepared, files: RunFolder, trainer: "SealedTrainer") -> list[curve.Point]:
    """Write the result, the probes, and the curve, which comes back."""
    save_result(prepared.attached, prepared.base, files)
    if prepared.objective.answers:
        _probe(prepared, files).save(files.probes)
    held_out = dict(trainer.held_out)
    points = [
        curve.Point(
            step=int(entry["step"]),
            loss=entry["loss"],
            learning_rate=entry["learning_rate"],
            gradient_norm=entry["grad_norm"],
            held_out=held_out.get(int(entry["step"])),
            metrics={name: entry[name] for name in prepared.objective.watched if name in entry},
        )
        for entry in trainer.state.log_history
        if "loss" in entry
    ]
    write_json(files.curve, curve.to_json(points))
    write_bytes(files.picture, curve.to_svg(points, prepared.title).encode())
    return points


def _probe(prepared: Prepared, files: RunFolder) -> probes.Probes:
    """What the adapter says as it will be served, and how far that is from what was trained."""
    from trimtab.train.model import as_served

    attached, examples = prepared.attached, prepared.checked.examples
    served = as_served(attached, prepared.base, files.adapter, prepared.machine)
    measured = probes.measure(served, examples, prepared.machine.dtype)
    if served is attached.model:
        return measured
    return probes.narrowed(measured, attached.model, examples)

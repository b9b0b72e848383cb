"""Verification: does the serving engine, from the packaged files, compute what was trained?

Two questions. Is everything what the version says it is: base, adapter, tokenizer, template? That
is answered from hashes, before anything is loaded, and a wrong answer is an IdentityError. And does
it compute the same: the golden probes reproduced, the adapter different from its base, the merged
weights equal to the unmerged ones? That is measured, and the version stays unverified where not.
"""

import math
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

from trimtab.canonical import short
from trimtab.deploy.package import Package
from trimtab.deploy.probes import Probe, Probes
from trimtab.errors import EngineError, IdentityError
from trimtab.evaluate.asking import in_batches, score_one
from trimtab.inference import Engine, VersionFiles
from trimtab.registry.identity import adapter_hash, base_hash, tokenizer_hash
from trimtab.text.chat import ChatFormat

NO_OP_FACTOR = 5
ROUNDING_FACTOR = 3
Logprobs = list[tuple[float, ...]]


@dataclass(frozen=True, slots=True)
class Verification:
    """What was measured. Differences are the largest over all probe tokens, in nats.

    `probe_difference` is between training and serving, in the worse of two batch shapes;
    `base_difference` between the version and its base; `merged_difference` between the adapter
    applied beside the base's weights and folded into them. The folded copy computes in float32; so
    where the engine does not, `merged_tolerance` allows for what that alone changes in the base.
    """

    ok: bool
    reason: str
    runtime: str
    tokens: int
    tolerance: float
    probe_difference: float
    base_difference: float
    merged_difference: float
    merged_tolerance: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


async def verify(
    engine: Engine,
    package: Package,
    files: VersionFiles,
    base_files: VersionFiles,
    base_engine: Engine | None = None,
    reference: Engine | None = None,
) -> Verification:
    """Judge a version through the engine that will serve it, under a name that nobody asks for.

    `files` are the version's and `base_files` those of the base that it was trained from. A version
    that was trained whole stands on a base of its own, so the other one has `base_engine`; it has
    nothing to fold in. Copies in float32 are computed by `reference`, where the engine cannot:
    `Capabilities.merged`. Nothing stays loaded. Raises IdentityError before loading anything where
    a file is not what the package's version names, and where the base does not repeat its proof.
    """
    check_identity(package, files)
    probes, proof = package.probes.probes, package.probes.proof()
    runtime = (await engine.capabilities()).runtime
    tolerance = proof.allowed(runtime)
    beside = base_engine or engine
    async with _on_trial(beside, base_files) as name:
        base = await _together(beside, name, probes)
    async with _on_trial(engine, replace(files, proof=None)) as name:
        alone = await _one_by_one(engine, name, probes)
        batched = await _together(engine, name, probes)
    rounding = merged = 0.0
    narrow = runtime.dtype != "float32" or runtime.quantisation != "none"
    rounded = tolerance if narrow else package.probes.tolerance
    if narrow and files.adapter is not None:
        rounding = _difference(base, await _in_float32(reference or beside, base_files, probes))
    if files.adapter is not None:
        merged = _difference(batched, await _in_float32(reference or engine, files, probes))
    trained = [probe.logprobs for probe in probes]
    shapes = [_differences(trained, found) for found in (alone, batched)]
    return _judge(
        runtime=runtime.name,
        tokens=sum(len(probe.completion) for probe in probes),
        tolerance=tolerance,
        least=NO_OP_FACTOR * package.probes.tolerance,
        objection=next(filter(None, (proof.objection(each, runtime) for each in shapes)), ""),
        probe_difference=max(max(each, default=0.0) for each in shapes),
        base_difference=_difference(batched, base),
        merged_difference=merged,
        merged_tolerance=max(rounded, ROUNDING_FACTOR * rounding),
    )


def check_identity(package: Package, files: VersionFiles) -> None:
    """Compare what lies on disk with what the version is. Raises IdentityError."""
    spec = package.spec
    if files.version != spec.hash:
        raise _refused(files, f"the package is of version {short(spec.hash)}")
    if base_hash(files.base) != spec.base:
        raise _refused(files, f"wrong base: {files.base} is not base {short(spec.base)}")
    if (files.adapter and adapter_hash(files.adapter, spec.base)) != spec.adapter:
        raise _refused(files, f"wrong adapter: {files.adapter} is another one")
    if tokenizer_hash(files.tokenizer) != spec.tokenizer:
        raise _refused(files, f"wrong tokenizer: {files.tokenizer} holds another one")
    chat_format = ChatFormat.from_folder(
        files.tokenizer,
        system=spec.template["system"],
        source=spec.template["chat_template"],
    )
    for probe in package.probes.probes:
        if chat_format.prompt_tokens(probe.messages) != probe.prompt:
            raise _refused(files, "wrong template: the probes' messages render to other tokens")


def _refused(files: VersionFiles, what: str) -> IdentityError:
    return IdentityError(
        f"version {short(files.version)} was not loaded: {what}",
        hint="run the loop again, so that what is packaged is what was trained",
    )


def _judge(
    *,
    runtime: str,
    tokens: int,
    tolerance: float,
    least: float,
    objection: str,
    probe_difference: float,
    base_difference: float,
    merged_difference: float,
    merged_tolerance: float,
) -> Verification:
    if not tokens:
        reason = "no probes: nothing was compared"
    elif objection:
        reason = f"the probes are {objection}"
    elif base_difference <= least:
        reason = (
            f"the adapter does nothing: {base_difference:.2g} nat from its base,"
            f" more than {least:.2g} expected"
        )
    elif merged_difference > merged_tolerance:
        reason = (
            f"the merged copy differs: {merged_difference:.2g} nat, {merged_tolerance:.2g} allowed"
        )
    else:
        reason = ""
    return Verification(
        ok=not reason,
        reason=reason or f"{tokens} probe tokens reproduced within {tolerance:.2g} nat",
        runtime=runtime,
        tokens=tokens,
        tolerance=tolerance,
        probe_difference=probe_difference,
        base_difference=base_difference,
        merged_difference=merged_difference,
        merged_tolerance=merged_tolerance,
    )


async def said_of(package: Package, base_files: VersionFiles, by: Engine) -> Probes:
    """What a base says of the probes of a version on it, `by` an engine that read its weights, for
    one to repeat that holds it by its name alone.
    """
    dtype = (await by.capabilities()).runtime.dtype
    probes = package.probes.probes
    async with _on_trial(by, replace(base_files, proof=None)) as name:
        said = await _together(by, name, probes)
    told = zip(probes, said, strict=True)
    repeated = tuple(replace(one, logprobs=row) for one, row in told)
    return Probes(package.probes.tolerance, dtype, repeated)


async def _one_by_one(engine: Engine, version: str, probes: Sequence[Probe]) -> Logprobs:
    scores = [await score_one(engine, version, one.prompt, one.completion) for one in probes]
    return [score.logprobs for score in scores]


async def _together(engine: Engine, version: str, probes: Sequence[Probe]) -> Logprobs:
    async def work(probe: Probe) -> tuple[float, ...]:
        return (await score_one(engine, version, probe.prompt, probe.completion)).logprobs

    return await in_batches(engine, probes, work)


async def _in_float32(engine: Engine, files: VersionFiles, probes: Sequence[Probe]) -> Logprobs:
    """By a copy in float32 with the adapter, if there is one, folded in."""
    async with _on_trial(engine, replace(files, merged=True, proof=None)) as name:
        return await _together(engine, name, probes)


@asynccontextmanager
async def _on_trial(engine: Engine, files: VersionFiles) -> AsyncIterator[str]:
    """The name of a version while it is judged: not the one by which it is asked for, and no other
    run's, which may judge a version on the same base through the same engine.
    """
    kind = "merged" if files.merged else "trial"
    name = f"{files.version}+{kind}-{secrets.token_hex(4)}"
    await engine.load(replace(files, version=name))
    try:
        yield name
    finally:
        await engine.unload(name)


def _difference(ones: Logprobs, others: Logprobs) -> float:
    """The largest difference of a token. Raises EngineError where one is not a number."""
    return max(_differences(ones, others), default=0.0)


def _differences(ones: Logprobs, others: Logprobs) -> list[float]:
    pairs = zip(ones, others, strict=True)
    differences = [abs(a - b) for one, other in pairs for a, b in zip(one, other, strict=True)]
    if not all(math.isfinite(difference) for difference in differences):
        raise EngineError(
            "a golden probe scored a log-probability that is not finite",
            hint="are the weights damaged, or is the dtype too narrow for this model?",
        )
    return differences

"""Two ranks take the steps of one process, and really share them; a rank that dies ends the run.

The long form, with DeepSpeed and Ray, is `make test-distributed`.
"""

import dataclasses
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from filelock import FileLock

from tests.train.conftest import Records, notes_of, overheard, small_settings
from trimtab.errors import InUse, ProjectError, RankLost, StorageFull, UserError
from trimtab.text.chat import ChatFormat
from trimtab.train.checkpoint import newest
from trimtab.train.launchers import Launch, xla_place
from trimtab.train.launchers.builds import clear_dead_locks
from trimtab.train.launchers.crew import own_device
from trimtab.train.launchers.job import Desk, Job
from trimtab.train.objectives import objective_of
from trimtab.train.online.rewards import over
from trimtab.train.pairing import check
from trimtab.train.preflight import preflight
from trimtab.train.run import RunFolder, RunResult, StepProgress, write_json
from trimtab.train.settings import TrainSettings
from trimtab.train.share import Share
from trimtab.train.start import train

# The order of a sum is another, and float32 adds 24 bits: nats a step, over a dozen steps.
TOLERANCE = 2e-5
TWO = Launch("torchrun", 2)
SHARDED = Launch("torchrun", 2, "fsdp")
# Twenty-three records: the last batch has three rows, which two ranks do not share out evenly.
RECORDS = 23


def settings(launch: Launch, **changes: Any) -> TrainSettings:
    return dataclasses.replace(small_settings(), launch=launch, **changes)


def learning(objective: str, **extra: Any) -> TrainSettings:
    """From answers of its own: to four prompts a step, in two batches."""
    extra |= {"num_generations": 2, "max_completion_length": 6, "warmup_steps": 0}
    return settings(TWO, objective=objective, accumulation=2, epochs=0.4, extra=extra)


CASES = {
    "ddp, lora": settings(TWO, accumulation=2),
    "ddp, packed": settings(TWO, packing=True, batch_size=2, max_length=160),
    "ddp, early": settings(
        TWO, learning_rate=0.1, epochs=4, validation=0.2, patience=1, extra={"save_steps": 1}
    ),
    # The last batch has one row, and so has that of what is held out.
    "ddp, kto": settings(TWO, objective="kto", epochs=0.45, validation=0.2),
    # Each with what is taken over all answers of a step: their deviation, their KL.
    "ddp, grpo": learning("grpo", scale_rewards="batch", beta=0.05, num_iterations=2),
    "ddp, ppo": learning("ppo", num_iterations=2),
    "fsdp, lora": settings(SHARDED),
    "fsdp, full": settings(SHARDED, method="full", learning_rate=1e-3, epochs=0.35),
    "fsdp, dpo": settings(SHARDED, objective="dpo", epochs=0.45),
}


def job(base: Path, chat: ChatFormat, records: Records, asked: TrainSettings) -> Job:
    objective = objective_of(asked.objective)
    scorers = [over(overheard(Path(os.devnull)), records)] if objective.rollouts else []
    return Job.of(base, asked, preflight(chat, records, asked.max_length, objective), scorers)


def curve(run: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(RunFolder(run).curve.read_bytes())
    return found


@pytest.fixture(scope="module")
def ranks() -> Iterator[subprocess.Popen[str]]:
    """What does a run in two ranks, started before there is one: it imports meanwhile."""
    words = [sys.executable, "-m", "tests.train.ranks"]
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        yield process


@pytest.fixture(scope="module")
def killed(
    ranks: subprocess.Popen[str],
    base: Path,
    chat: ChatFormat,
    records: Records,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, RankLost]:
    """A run of torchrun whose second rank is killed behind its third step; how it ended."""
    run = tmp_path_factory.mktemp("killed") / "run"

    def kill(progress: StepProgress) -> None:
        if progress.step == 3:
            for process in psutil.Process().children(recursive=True):
                if process.environ().get("RANK") == "1":
                    process.send_signal(signal.SIGKILL)

    asked = settings(TWO, epochs=2)
    with pytest.raises(RankLost) as caught:
        train(base, chat, records[:RECORDS], asked, run, on_step=kill)
    return run, caught.value


@pytest.fixture(scope="module")
def together(
    ranks: subprocess.Popen[str],
    killed: tuple[Path, RankLost],
    base: Path,
    chat: ChatFormat,
    records: Records,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Path]:
    """Each case done by two ranks; and the killed run, gone on with."""
    folder = tmp_path_factory.mktemp("ranks")
    runs = {name: folder / str(number) for number, name in enumerate(CASES)}
    for name, run in runs.items():
        job(base, chat, records[:RECORDS], CASES[name]).save(Desk(run).job)
    # The killed run with a device that is full when it goes on.
    runs["full"] = folder / "full"
    shutil.copytree(killed[0], runs["full"], ignore=shutil.ignore_patterns("ranks"))
    job(base, chat, records[:RECORDS], settings(TWO, epochs=2)).save(Desk(runs["full"]).job)
    runs["killed"] = killed[0]
    # A folder of another run, which its ranks find out.
    runs["taken"] = folder / "taken"
    write_json(runs["taken"] / "settings.json", {"identity": "0" * 64})
    job(base, chat, records, settings(TWO)).save(Desk(runs["taken"]).job)
    room = {"full": 8000}
    asked = [f"{run}\t{room.get(name, '')}\n" for name, run in runs.items()]
    _, said = ranks.communicate("".join(asked), timeout=300)
    assert ranks.returncode == 0, said[-2000:]
    return runs


def alone(
    base: Path, chat: ChatFormat, records: Records, asked: TrainSettings, run: Path
) -> RunResult:
    asked = dataclasses.replace(asked, launch=Launch())
    rewards = [overheard(notes_of(run))] if objective_of(asked.objective).rollouts else []
    return train(base, chat, records[:RECORDS], asked, run, rewards=rewards)


@pytest.mark.parametrize("name", CASES)
def test_ranks_take_the_steps_of_one_process(
    name: str,
    together: dict[str, Path],
    base: Path,
    chat: ChatFormat,
    records: Records,
    tmp_path: Path,
) -> None:
    one = alone(base, chat, records, CASES[name], tmp_path / "run")
    many = RunResult.load(together[name])
    assert many is not None, str(Desk(together[name]).cause(2))
    assert (many.steps, many.tokens, many.trainable) == (one.steps, one.tokens, one.trainable)
    for a, b in zip(curve(one.folder), curve(many.folder), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=TOLERANCE)
        assert a["gradient_norm"] == pytest.approx(b["gradient_norm"], rel=1e-4)
        assert a["learning_rate"] == b["learning_rate"]
        assert a["metrics"] == pytest.approx(b["metrics"], abs=1e-3)
        assert a["held_out"] == pytest.approx(b["held_out"], abs=TOLERANCE)
    assert (many.stopped, many.best_step) == (one.stopped, one.best_step)
    assert weights_apart(one, many) < 1e-3
    if objective_of(CASES[name].objective).rollouts:
        answers = [sorted(notes_of(r.folder).read_text().splitlines()) for r in (one, many)]
        assert answers[0] == answers[1]
        proof = json.loads(many.files.launch.read_bytes())["proof"]
        assert proof["sampled"] == [len(answers[0]) / 2] * 2


def weights_apart(one: RunResult, many: RunResult) -> float:
    """The largest difference of the two results' weights, which have the same names."""
    from safetensors.torch import load_file

    found = []
    for result in (one, many):
        files = result.files
        folder = files.adapter if files.adapter.is_dir() else files.model
        found.append(load_file(next(folder.glob("*.safetensors"))))
    first, second = found
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def test_fsdp_really_lies_in_shards(together: dict[str, Path]) -> None:
    for name in ("fsdp, lora", "fsdp, full", "fsdp, dpo"):
        proof = json.loads(RunFolder(together[name]).launch.read_bytes())["proof"]
        assert proof["wrapper"] == "FSDPModule"
        assert sum(proof["held"]) == proof["numbers"]
        assert max(proof["held"]) < 0.6 * proof["numbers"]


def test_ddp_ends_with_equal_replicas(together: dict[str, Path]) -> None:
    found = json.loads(RunFolder(together["ddp, lora"]).launch.read_bytes())
    assert found["proof"] == {"wrapper": "DistributedDataParallel", "replicas_equal": True}
    assert found["ranks"] == 2


def test_ranks_end_together_where_held_out_loss_no_longer_falls(together: dict[str, Path]) -> None:
    result = RunResult.load(together["ddp, early"])
    assert result is not None
    assert result.stopped == "early"
    assert result.best_step == result.steps - 1 < result.planned_steps


def test_a_rank_that_is_killed_is_named(killed: tuple[Path, RankLost]) -> None:
    run, error = killed
    assert error.message == "rank 1 of 2 was ended by SIGKILL, as where memory runs out"
    assert "last checkpoint" in error.hint
    assert not [
        p for p in psutil.process_iter(["cmdline"]) if str(run) in (p.info["cmdline"] or [])
    ]


def test_what_a_killed_run_left_is_gone_on_with(
    together: dict[str, Path], base: Path, chat: ChatFormat, records: Records, tmp_path: Path
) -> None:
    one = alone(base, chat, records, settings(TWO, epochs=2), tmp_path)
    losses = [[point["loss"] for point in curve(run)] for run in (one.folder, together["killed"])]
    assert losses[0] == pytest.approx(losses[1], abs=1e-3)


def test_where_the_device_is_full_the_last_checkpoint_stands(together: dict[str, Path]) -> None:
    cause = Desk(together["full"]).cause(2)
    assert isinstance(cause, StorageFull)
    assert "the disk is full; step 2 is safe" in cause.message
    last = newest(RunFolder(together["full"]).checkpoints)
    assert last is not None
    assert last.step == 2


def test_two_trainings_in_one_folder_are_refused(
    base: Path, chat: ChatFormat, records: Records, tmp_path: Path
) -> None:
    with FileLock(tmp_path / ".lock"), pytest.raises(InUse, match="another process is training"):
        train(base, chat, records, settings(TWO), tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == [".lock"]


def test_what_a_rank_says_of_itself_is_the_cause(together: dict[str, Path]) -> None:
    cause = Desk(together["taken"]).cause(2)
    assert isinstance(cause, UserError)
    assert "holds run 000000000000" in cause.message
    assert "folder of its own" in cause.hint


def test_what_ended_one_rank_is_the_cause_and_not_what_then_ended_the_others(
    tmp_path: Path,
) -> None:
    desk = Desk(tmp_path)
    desk.lose({0: -signal.SIGTERM, 1: -signal.SIGKILL})
    assert desk.cause(2).message.startswith("rank 1 of 2 was ended by SIGKILL")
    desk.lose({0: -signal.SIGTERM, 1: 1})
    desk.fail(1, UserError("step 3: loss is nan", hint="lower it"))
    assert desk.cause(2).message == "step 3: loss is nan"


def test_shares_together_are_the_batch() -> None:
    batch = [4, 9, 2, 7, 5]
    shares = [Share(rank, 3) for rank in range(3)]
    assert sorted(place for share in shares for place in share.of(batch)) == sorted(batch)
    assert sum(share.weight(batch) for share in shares) == pytest.approx(3)
    assert Share(2, 3).of([1, 2]) == []
    assert Share(2, 3).weight([1, 2]) == 0
    assert Share().of(batch) == batch


def test_each_rank_sees_one_device_its_own() -> None:
    assert [own_device(None, local) for local in range(3)] == ["0", "1", "2"]
    assert [own_device("4,GPU-7", local) for local in range(2)] == ["4", "GPU-7"]
    # No device rather than that of another rank.
    assert (own_device("", 0), own_device("4", 1)) == ("", "")


def test_a_rank_that_sees_several_devices_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from trimtab.train.launchers.crew import Crew

    # As a launcher leaves a rank that has met the others already.
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    with pytest.raises(UserError, match="sees 4 CUDA devices") as caught:
        Crew.join()
    assert "CUDA_VISIBLE_DEVICES" in caught.value.hint


def test_a_job_comes_back_as_it_was(
    base: Path, chat: ChatFormat, records: Records, tmp_path: Path
) -> None:
    for asked in (
        settings(TWO, targets=("q_proj",)),
        settings(SHARDED, objective="dpo"),
        learning("ppo"),
    ):
        one = job(base, chat, records, asked)
        one.save(tmp_path / "job.json")
        again = Job.load(tmp_path / "job.json")
        assert again == one
        assert again.checked.hash == one.checked.hash


@pytest.mark.parametrize(
    ("launch", "changes", "reason"),
    [
        (Launch("torchrun", 3), {}, "a batch of 4 is not shared out evenly among 3 ranks"),
        (Launch("local", 2), {}, "one process has nothing to shard"),
        (Launch("torchrun", 0), {}, "0 ranks are none"),
        (Launch("torchrun", 2, "fsdp", "cpu"), {}, "fsdp offloads nothing to cpu"),
        (Launch("torchrun", 2, "zero3", "nvme"), {}, "wrong losses in each of four trials"),
        (Launch("torchrun", 1, "zero2", "nvme"), {}, "zero2 offloads nothing to nvme"),
        (Launch("tpu", 2), {}, "one process drives XLA's device, and nothing is cut"),
        (SHARDED, {"method": "qlora"}, "fsdp cannot cut weights of 4 bits"),
        (SHARDED, {"method": "bottleneck"}, "a bottleneck hangs beside the model"),
        (SHARDED, {"validation": 0.1, "patience": 2}, "best checkpoint is not read back into"),
        (TWO, {"objective": "kto", "batch_size": 2}, "kto needs two rows of each batch in each"),
        (
            TWO,
            {"objective": "grpo"},
            "the answers to 1 prompts, compared by prompt, are not shared",
        ),
        (SHARDED, {"objective": "ppo", "batch_size": 8}, "fsdp would gather every weight for each"),
        (
            TWO,
            {"objective": "grpo", "batch_size": 8, "extra": {"entropy_coef": 0.1}},
            "entropy_coef: TRL computes it among the answers of one process",
        ),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(
    launch: Launch, changes: dict[str, Any], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whether DeepSpeed is installed is another question.
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: ModuleSpec(name, None))
    with pytest.raises(ProjectError, match=reason) as caught:
        check(settings(launch, **changes), ())
    assert caught.value.message.startswith(("train.launcher: ", "train.extra."))
    assert caught.value.hint


def xla_here(monkeypatch: pytest.MonkeyPatch, python: str, platform: str) -> None:
    monkeypatch.setenv("TRIMTAB_XLA_PYTHON", python)
    monkeypatch.setenv("PJRT_DEVICE", platform)


@pytest.mark.parametrize(
    ("python", "platform", "changes", "reason"),
    [
        ("", "CPU", {}, "no interpreter with torch_xla: its newest release needs torch 2.9"),
        ("/nowhere/python", "CPU", {}, "TRIMTAB_XLA_PYTHON: '/nowhere/python' is no program"),
        (sys.executable, "TPU", {}, "this machine has no TPU"),
        (sys.executable, "CPU", {"objective": "dpo"}, "dpo by lora was never run through XLA"),
        (sys.executable, "CPU", {"method": "ia3"}, "sft by ia3 was never run through XLA"),
    ],
)
def test_a_run_through_xla_that_cannot_be_says_what_is_missing(
    python: str,
    platform: str,
    changes: dict[str, Any],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    xla_here(monkeypatch, python, platform)
    with pytest.raises(ProjectError) as caught:
        check(settings(Launch("tpu"), **changes), ())
    assert caught.value.message.startswith(f"train.launcher: tpu: {reason}")
    assert caught.value.hint


def test_a_run_through_xla_is_open_where_there_is_an_interpreter_and_a_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    xla_here(monkeypatch, sys.executable, "CPU")
    check(settings(Launch("tpu")), ())
    monkeypatch.setenv("PJRT_DEVICE", "TPU")
    monkeypatch.setattr(xla_place, "DEVICES", (str(tmp_path),))
    check(settings(Launch("tpu")), ())


def test_an_interpreter_that_says_nothing_is_no_run(
    base: Path, chat: ChatFormat, records: Records, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    xla_here(monkeypatch, "/bin/false", "CPU")
    with pytest.raises(RankLost, match="did not start"):
        train(base, chat, records, settings(Launch("tpu")), tmp_path)


def test_an_interpreter_that_lacks_something_says_so_in_one_line(
    base: Path,
    chat: ChatFormat,
    records: Records,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Not on the terminal, where a bar may be: in the log, and its last line in the error."""
    python = tmp_path / "python"
    python.write_text(
        "#!/bin/sh\necho Traceback >&2\necho \"No module named 'torch'\" >&2\nexit 1\n"
    )
    python.chmod(0o755)
    xla_here(monkeypatch, str(python), "CPU")
    with pytest.raises(RankLost, match="did not start: No module named 'torch'"):
        train(base, chat, records, settings(Launch("tpu")), tmp_path / "runs")
    assert "Traceback" not in capfd.readouterr().err


def test_the_process_with_xla_sees_this_release_alone(tmp_path: Path) -> None:
    import trimtab
    from trimtab.train.launchers.tpu import this_release

    desk = Desk(tmp_path)
    desk.path.mkdir()
    folder = this_release(desk)
    assert [each.resolve() for each in folder.iterdir()] == [Path(trimtab.__file__).parent]


def test_the_device_of_xla_is_told_by_its_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    from trimtab.train.speed import device

    monkeypatch.setenv("PJRT_DEVICE", "CPU")
    found = ModuleSpec("torch_xla", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found)
    assert (device().label, device().dtype) == ("xla:CPU", "float32")
    monkeypatch.setenv("PJRT_DEVICE", "TPU")
    assert (device().label, device().dtype) == ("xla:TPU", "bfloat16")
    monkeypatch.delenv("PJRT_DEVICE")
    assert device().name != "xla"


@pytest.mark.parametrize("launch", [Launch("torchrun", 2, "zero2"), Launch("ray", 2)])
def test_what_is_not_installed_is_named_with_what_brings_it(
    launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ProjectError, match="is not installed") as caught:
        check(settings(launch), ())
    assert "pip install 'trimtab[" in caught.value.hint


def test_locks_of_dead_builds_are_cleared_and_those_of_living_ones_are_not(tmp_path: Path) -> None:
    """torch's own lock of a build: a file that its builder made and holds open."""
    from torch.utils.file_baton import FileBaton

    for name in ("dead", "alive"):
        (tmp_path / "py311_cpu" / name).mkdir(parents=True)
    dead = tmp_path / "py311_cpu" / "dead" / "lock"
    dead.touch()
    living = FileBaton(str(tmp_path / "py311_cpu" / "alive" / "lock"))
    assert living.try_acquire()
    assert clear_dead_locks(tmp_path) == [dead]
    assert not dead.exists()
    assert not living.try_acquire()
    living.release()
    assert clear_dead_locks(tmp_path) == []


@pytest.mark.parametrize(
    ("launch", "stage", "places"),
    [
        (Launch("torchrun", 2, "zero2"), 2, {}),
        (Launch("torchrun", 2, "zero2", "cpu"), 2, {"offload_optimizer": "cpu"}),
        (
            Launch("torchrun", 2, "zero3", "cpu"),
            3,
            {"offload_optimizer": "cpu", "offload_param": "cpu"},
        ),
        (Launch("torchrun", 1, "zero3", "nvme"), 3, {"offload_optimizer": "nvme"}),
    ],
)
def test_deepspeed_is_told_what_the_launch_says(
    launch: Launch, stage: int, places: dict[str, str], tmp_path: Path
) -> None:
    from trimtab.train.launchers.zero import Zero

    arguments = SimpleNamespace(
        output_dir=str(tmp_path / "checkpoints"),
        per_device_train_batch_size=2,
        max_grad_norm=1.0,
        bf16=False,
    )
    config = Zero(launch).config(arguments, 64)
    zero = config["zero_optimization"]
    assert zero.pop("stage") == stage
    assert zero.pop("stage3_param_persistence_threshold", None) == (640 if stage == 3 else None)
    assert {name: place["device"] for name, place in zero.items()} == places
    if launch.offload == "nvme":
        assert zero["offload_optimizer"]["nvme_path"] == str(tmp_path / "offload")
    assert config["gradient_clipping"] == 1.0
    # The trainer counts the batches of a step, and its optimizer is the one process's.
    assert config["gradient_accumulation_steps"] == 1
    assert config["zero_force_ds_cpu_optimizer"] is False


@pytest.mark.parametrize("there", [True, False])
def test_offload_to_nvme_says_what_deepspeed_lacks(
    there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trimtab.train.launchers.zero import must_have_aio

    builder = SimpleNamespace(AsyncIOBuilder=lambda: SimpleNamespace(is_compatible=lambda: there))
    for name in ("deepspeed", "deepspeed.ops", "deepspeed.ops.op_builder"):
        monkeypatch.setitem(sys.modules, name, builder)
    with nullcontext() if there else pytest.raises(UserError, match="finds no libaio") as caught:
        must_have_aio()
    if caught is not None:
        assert "libaio-dev" in caught.value.hint


def test_offload_to_nvme_of_what_deepspeed_would_not_move_is_refused() -> None:
    import torch

    from trimtab.train.launchers.zero import must_be_moved

    large, small = (torch.empty(numbers, device="meta") for numbers in (200_000, 62_144))
    must_be_moved([[large, small], [small]])
    with pytest.raises(UserError, match="200000 weights at a time, and DeepSpeed leaves fewer"):
        must_be_moved([[large], [small]])

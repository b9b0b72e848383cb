"""Workers of a Ray cluster as ranks. That they take the steps of one process, and that lost ones
are replaced, is for `make test-distributed` to show, which installs Ray: 250 MB for one launcher.
"""

import importlib.util
import json
import os
import signal
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.train.conftest import Records
from tests.train.launch_campaign import kill_a_worker
from tests.train.test_launchers import RECORDS, TOLERANCE, alone, curve, job, settings
from trimtab.errors import Preempted, RankLost, UserError
from trimtab.text.chat import ChatFormat
from trimtab.train.checkpoint import newest
from trimtab.train.launchers import Launch
from trimtab.train.launchers.job import Desk
from trimtab.train.launchers.ray import fewest, launch, work_in_ray
from trimtab.train.run import RunFolder, StepProgress, write_json
from trimtab.train.start import train

WORKERS = Launch("ray", 2)


def installed(test: Callable[..., None]) -> Any:
    """A test that needs Ray, whose own code warns of itself."""
    absent = importlib.util.find_spec("ray") is None
    reason = "ray is not installed: make test-distributed"
    return pytest.mark.skipif(absent, reason=reason)(pytest.mark.filterwarnings("ignore")(test))


@pytest.mark.parametrize(
    ("most", "batch", "least"), [(2, 8, 1), (4, 8, 4), (4, 12, 1), (3, 6, 1), (1, 5, 1)]
)
def test_a_cluster_may_start_with_fewer_where_those_share_a_batch_evenly(
    most: int, batch: int, least: int
) -> None:
    assert fewest(most, batch) == least


def test_what_trimtab_refuses_is_final_and_a_lost_worker_is_not(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.fail(0, RuntimeError("Connection closed by peer"))
    assert not desk.final
    desk.fail(1, RankLost("rank 0 of 2 was ended by SIGKILL"))
    assert desk.final


def test_ranks_that_no_signal_reaches_are_told_to_end_by_a_file(tmp_path: Path) -> None:
    ours, theirs = Desk(tmp_path), Desk(tmp_path)
    ours.path.mkdir()
    assert (ours.asked_s, theirs.to_end) == (0.0, False)
    ours.ask_to_end()
    assert ours.asked_s > 0
    assert theirs.to_end
    assert theirs.asked_s == 0


class Cluster(ModuleType):
    """In the place of Ray: remembers what it is told, and cannot be reached."""

    def __init__(self) -> None:
        super().__init__("ray")
        self.told: dict[str, Any] = {}

    def is_initialized(self) -> bool:
        return False

    def init(self, address: str | None, **told: Any) -> None:
        self.told = told
        raise ConnectionError(f"Failed to connect to Ray cluster at {address}\nand more")


@pytest.mark.parametrize("address", ["127.0.0.1:9", None])
def test_each_worker_sees_its_own_gpu_wherever_the_cluster_is(
    address: str | None,
    base: Path,
    chat: ChatFormat,
    records: Records,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = Cluster()
    monkeypatch.setitem(sys.modules, "ray", cluster)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if address is not None:
        monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises((ConnectionError, UserError)) as caught:
        launch(job(base, chat, records, settings(WORKERS)), tmp_path, None)
    if address is not None:
        assert isinstance(caught.value, UserError)
        assert caught.value.message == (
            "RAY_ADDRESS: no cluster can be used at '127.0.0.1:9': "
            "ConnectionError: Failed to connect to Ray cluster at 127.0.0.1:9"
        )
    variables = cluster.told["runtime_env"]["env_vars"]
    assert variables["TRAIN_ENABLE_SHARE_CUDA_VISIBLE_DEVICES"] == "0"


def test_a_worker_that_does_not_see_the_base_is_final_and_one_without_the_run_says_so(
    chat: ChatFormat, records: Records, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    desk, base = Desk(tmp_path / "run"), tmp_path / "cache" / "base"
    told = {"run": str(desk.run), "base": str(base)}
    with pytest.raises(UserError, match="run: not to be seen on"):
        work_in_ray(told)
    job(base, chat, records, settings(WORKERS)).save(desk.job)
    with pytest.raises(UserError, match="base: not to be seen on"):
        work_in_ray(told)
    assert desk.final
    assert desk.cause(2).message.startswith(str(base))
    # The group that is started in its place does nothing.
    work_in_ray(told)


def test_workers_that_begin_behind_the_order_to_end_say_what_is_saved(
    base: Path,
    chat: ChatFormat,
    records: Records,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RANK", "0")
    desk = Desk(tmp_path)
    job(base, chat, records, settings(WORKERS)).save(desk.job)
    desk.ask_to_end()
    with pytest.raises(Preempted, match="before these workers began; nothing was saved yet"):
        work_in_ray({"run": str(tmp_path), "base": str(base)})
    assert isinstance(desk.cause(2), Preempted)


def test_slow_steps_are_waited_for_when_ranks_are_told_to_end(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.path.mkdir()
    for seconds in (3600.0, 3640.0, 3690.0):
        desk.tell(StepProgress(1, 9, 1.0, 1.0, seconds, 1.0, 0, 0.0, None, None))
    desk.tell_on(None)
    # The first has all that earlier attempts took behind it.
    assert desk.patience(70.0) == 170.0


@installed
def test_told_to_end_the_workers_save_at_once(
    base: Path, chat: ChatFormat, records: Records, tmp_path: Path
) -> None:
    def tell(progress: StepProgress) -> None:
        if progress.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    asked = settings(WORKERS, epochs=20, extra={"save_steps": 1000})
    with pytest.raises(Preempted, match=r"told to end; step \d+ of 115 is saved"):
        train(base, chat, records[:RECORDS], asked, tmp_path, on_step=tell)
    last = newest(RunFolder(tmp_path).checkpoints)
    assert last is not None
    assert last.step >= 3


@installed
def test_a_lost_worker_is_replaced_and_the_steps_are_those_of_one_process(
    base: Path, chat: ChatFormat, records: Records, tmp_path: Path
) -> None:
    told: list[int] = []
    killed: list[int] = []

    def strike(progress: StepProgress) -> None:
        told.append(progress.step)
        if progress.step >= 5 and not killed and kill_a_worker():
            killed.append(progress.step)

    asked = settings(WORKERS, epochs=4)
    many = train(base, chat, records[:RECORDS], asked, tmp_path / "many", on_step=strike)
    one = alone(base, chat, records, asked, tmp_path / "one")
    assert killed
    # It went back to a checkpoint, and not to the beginning.
    again = next(after for before, after in pairwise(told) if after <= before)
    assert again > 1
    losses = [[point["loss"] for point in curve(run.folder)] for run in (one, many)]
    assert losses[1] == pytest.approx(losses[0], abs=TOLERANCE)


@installed
def test_where_there_is_room_for_fewer_workers_fewer_take_the_same_steps(
    base: Path, chat: ChatFormat, records: Records, tmp_path: Path
) -> None:
    import ray

    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        asked = settings(WORKERS)
        many = train(base, chat, records[:RECORDS], asked, tmp_path / "many")
    finally:
        ray.shutdown()
    one = alone(base, chat, records, asked, tmp_path / "one")
    assert json.loads(many.files.launch.read_bytes())["ranks"] == 1
    losses = [[point["loss"] for point in curve(run.folder)] for run in (one, many)]
    assert losses[1] == pytest.approx(losses[0], abs=TOLERANCE)


@installed
def test_what_a_worker_refuses_is_said_and_not_tried_again(
    base: Path, chat: ChatFormat, records: Records, tmp_path: Path
) -> None:
    write_json(tmp_path / "settings.json", {"identity": "0" * 64})
    with pytest.raises(UserError, match="holds run 000000000000"):
        train(base, chat, records[:RECORDS], settings(WORKERS), tmp_path)

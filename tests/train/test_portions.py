"""A step of SFT is one batch on a card, which takes it in parts; else it is as the project says."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from tests.train.conftest import small_settings
from trimtab.train import trainer
from trimtab.train.objectives import objective_of
from trimtab.train.settings import TrainSettings
from trimtab.train.share import ALL, Share
from trimtab.train.speed import Device

SETTINGS = replace(small_settings(), batch_size=2, accumulation=8)


def prepared(settings: TrainSettings, device: str, share: Share = ALL) -> Any:
    return SimpleNamespace(
        settings=settings,
        machine=Device(device, "bfloat16"),
        share=share,
        objective=objective_of(settings.objective),
        attached=SimpleNamespace(model=None),
    )


@pytest.mark.parametrize(
    ("run", "walked", "expected"),
    [
        (prepared(SETTINGS, "cuda"), True, (16, 1)),
        (prepared(SETTINGS, "cuda"), False, (2, 8)),
        (prepared(SETTINGS, "cpu"), True, (2, 8)),
        (prepared(SETTINGS, "cuda", Share(0, 2)), True, (2, 8)),
        (prepared(replace(SETTINGS, objective="dpo"), "cuda"), True, (2, 8)),
        (prepared(replace(SETTINGS, extra={"loss_type": "dft"}), "cuda"), True, (2, 8)),
        (prepared(replace(SETTINGS, extra={"use_liger_kernel": True}), "cuda"), True, (2, 8)),
    ],
)
def test_a_step_is_one_batch_where_it_is_taken_in_parts(
    monkeypatch: pytest.MonkeyPatch, run: Any, walked: bool, expected: tuple[int, int]
) -> None:
    monkeypatch.setattr(trainer, "walkable", lambda _: walked)
    assert trainer.portions(run) == expected

import dataclasses

import pytest

from trimtab.errors import ProjectError
from trimtab.train.objectives import OBJECTIVES, SFT
from trimtab.train.settings import OWNED, TrainSettings, check_extra, config_class


def test_an_epoch_may_be_a_fraction_and_is_one_example_at_least() -> None:
    assert TrainSettings(epochs=1.5).examples(100) == 150
    assert TrainSettings(epochs=0.001).examples(3) == 1


def test_a_field_of_trl_is_allowed() -> None:
    check_extra(SFT, {"weight_decay": 0.1, "lr_scheduler_type": "linear"})
    check_extra(OBJECTIVES["dpo"], {"loss_type": ["ipo"], "beta": 0.2})


def test_an_unknown_field_names_the_nearest() -> None:
    with pytest.raises(ProjectError, match="wieght_decay") as caught:
        check_extra(SFT, {"wieght_decay": 0.1})
    assert "weight_decay" in caught.value.hint


@pytest.mark.parametrize("name", sorted(OWNED))
def test_a_field_decided_elsewhere_is_refused(name: str) -> None:
    with pytest.raises(ProjectError, match="cannot be set"):
        check_extra(SFT, {name: 1})


def test_every_owned_name_is_one_of_trl() -> None:
    known = {
        field.name
        for objective in OBJECTIVES.values()
        for field in dataclasses.fields(config_class(objective))
    }
    assert set(OWNED) <= known


def test_the_rate_is_the_objectives_unless_one_is_set() -> None:
    assert TrainSettings().rate == SFT.rate
    assert TrainSettings(method="full").rate == pytest.approx(SFT.rate / 10)
    assert TrainSettings(objective="dpo").rate == OBJECTIVES["dpo"].rate
    assert TrainSettings(method="full", learning_rate=0.5).rate == 0.5

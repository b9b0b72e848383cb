import pytest

from trimtab.errors import ProjectError
from trimtab.train.settings import OWNED, TrainSettings, check_extra


def test_steps_cover_a_fraction_of_an_epoch() -> None:
    settings = TrainSettings(epochs=1.5, batch_size=4, accumulation=2)
    assert settings.examples(100) == 150
    assert settings.steps(100) == 19


def test_at_least_one_step_is_made() -> None:
    assert TrainSettings(epochs=0.001).steps(3) == 1


def test_a_field_of_trl_is_allowed() -> None:
    check_extra({"weight_decay": 0.1, "lr_scheduler_type": "linear"})


def test_an_unknown_field_names_the_nearest() -> None:
    with pytest.raises(ProjectError, match="wieght_decay") as caught:
        check_extra({"wieght_decay": 0.1})
    assert "weight_decay" in caught.value.hint


@pytest.mark.parametrize("name", sorted(OWNED))
def test_a_field_decided_elsewhere_is_refused(name: str) -> None:
    with pytest.raises(ProjectError, match="cannot be set"):
        check_extra({name: 1})


def test_every_owned_name_is_one_of_trl() -> None:
    import dataclasses

    from trl.trainer.sft_config import SFTConfig

    assert set(OWNED) <= {field.name for field in dataclasses.fields(SFTConfig)}

"""What a loop says where its output is a log."""

import pytest

from trimtab.cli import screen
from trimtab.cli.screen import Screen


def test_long_work_says_its_share_only_where_the_whole_is_known(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(screen, "LINE_EVERY_S", 0.0)
    with Screen() as watching:
        watching.started("train")
        watching.advanced("training", 1, 4, "loss 2.500")
        watching.advanced("downloading", 5_000_000, None, "5 MB")
        watching.advanced("converting", 0, None)
        watching.finished("train", "adapter [a]", 1.5)
    assert capsys.readouterr().err.splitlines() == [
        "  training 25% loss 2.500",
        "  downloading 5 MB",
        "  converting",
        "✓ train     adapter [a] 1.5 s",
    ]


def test_a_line_is_never_cut_at_the_width_of_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    with Screen() as watching:
        watching.skipped("evaluate", "x" * 200)
    [line] = capsys.readouterr().err.splitlines()
    assert line == f"= evaluate  {'x' * 200} (done before)"

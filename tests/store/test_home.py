import os
from contextlib import suppress
from pathlib import Path

import pytest
from filelock import FileLock, Timeout

from tests.processes import running
from trimtab.errors import InUse, ProjectError, StorageFull, UserError
from trimtab.store.disk import write_whole
from trimtab.store.home import Home, find_home
from trimtab.store.user_cache import user_cache


def test_the_flag_goes_before_the_environment_and_that_before_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIMTAB_HOME", str(tmp_path / "environment"))
    assert find_home(tmp_path / "flag", tmp_path).root == tmp_path / "flag"
    assert find_home(None, tmp_path).root == tmp_path / "environment"
    monkeypatch.delenv("TRIMTAB_HOME")
    assert find_home(None, tmp_path).root == tmp_path / ".trimtab"
    with pytest.raises(ProjectError):
        find_home()


def test_finding_a_home_makes_nothing_and_using_it_hides_it_from_git(tmp_path: Path) -> None:
    home = find_home(None, tmp_path)
    assert not home.root.exists()
    assert home.runs.is_dir()
    assert home.sockets.is_dir()
    assert home.versions.is_dir()
    assert (home.root / ".gitignore").read_text() == "*\n"


def test_the_database_is_migrated_and_lies_in_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRIMTAB_DATABASE_URL", raising=False)
    home = Home(tmp_path / "with space?")
    database = home.database()
    with database.read() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM versions").scalar() == 0
    database.close()
    assert (home.root / "trimtab.db").is_file()


def test_the_database_is_where_the_environment_says(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIMTAB_DATABASE_URL", database_url)
    database = Home(tmp_path).database()
    with database.read() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM versions").scalar() == 0
    database.close()
    assert not (tmp_path / "trimtab.db").exists()


def test_a_home_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError) as caught:
        Home(tmp_path / "file" / "home").runs  # noqa: B018
    assert "--home" in caught.value.hint


def test_a_lock_is_held_alone_and_falls_with_its_process(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with running("tests.store.locker", str(tmp_path), "desk") as locker:
        with pytest.raises(InUse, match=str(locker.pid)), home.lock("desk"):
            pass
        with home.lock("another"):
            pass
        locker.kill()
        locker.wait()
        with home.lock("desk"):
            assert (tmp_path / "locks" / "desk.pid").read_text() == str(os.getpid())
    with home.lock("desk"):
        pass


def test_on_a_full_disk_a_lock_is_told_and_not_held(tiny_disk: Path) -> None:
    home = Home(tiny_disk)
    with home.lock("desk"):
        pass
    with pytest.raises(StorageFull):
        write_whole(tiny_disk / "large", bytes(3_000_000))
    rest = tiny_disk / "rest"
    with suppress(OSError), rest.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    with pytest.raises(StorageFull), home.lock("desk"):
        pass
    rest.unlink()
    with home.lock("desk"):
        pass


def test_a_lock_that_somebody_else_waits_for_inside_is_not_this_one(tmp_path: Path) -> None:
    home = Home(tmp_path)
    inner = FileLock(tmp_path / "inner")
    with inner, pytest.raises(Timeout), home.lock("desk"):
        FileLock(tmp_path / "inner", timeout=0).acquire()


def test_an_error_under_a_lock_frees_it(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with pytest.raises(ZeroDivisionError), home.lock("desk"):
        raise ZeroDivisionError
    with home.lock("desk"):
        pass


def test_the_cache_is_where_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIMTAB_CACHE", str(tmp_path))
    assert user_cache() == tmp_path
    monkeypatch.delenv("TRIMTAB_CACHE")
    assert user_cache().name == "trimtab"

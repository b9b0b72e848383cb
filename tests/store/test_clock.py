from trimtab.store.clock import now_us, show


def test_time_is_whole_microseconds_in_utc() -> None:
    assert show(1_700_000_000_999_999) == "2023-11-14T22:13:20+00:00"
    assert now_us() > 1_700_000_000_000_000

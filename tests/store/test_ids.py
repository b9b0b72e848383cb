import os
import threading
import uuid

from trimtab.store.ids import new_id, random_bytes


def test_ids_are_version_7_and_come_in_the_order_of_their_making() -> None:
    ids = [uuid.UUID(new_id()) for _ in range(2000)]
    assert {(one.version, one.variant) for one in ids} == {(7, uuid.RFC_4122)}
    stamps = [one.int >> 80 for one in ids]
    assert stamps == sorted(stamps)
    assert len(set(ids)) == len(ids)


def test_threads_and_children_never_draw_the_same() -> None:
    drawn: list[bytes] = []

    def draw() -> None:
        drawn.extend([random_bytes() for _ in range(3000)])

    threads = [threading.Thread(target=draw) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(drawn)) == len(drawn) == 12_000

    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, random_bytes())
        os._exit(0)
    mine = {random_bytes() for _ in range(600)}
    assert os.read(reading, 16) not in mine
    os.waitpid(child, 0)
    os.close(reading)
    os.close(writing)

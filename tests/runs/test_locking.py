"""Names of files that one process at a time makes; the others wait for it."""

import fcntl
import threading

from mvflow.runs import is_locked, locked, waiting_lock


def test_a_second_maker_waits_for_the_first_says_so_and_leaves_nothing(tmp_path, caplog):
    path, order, is_in = tmp_path / "made", [], threading.Event()

    def second():
        with waiting_lock(path):
            order.append(path.read_text())

    def third():
        is_in.wait()
        second()

    threads = [threading.Thread(target=third) for _ in range(3)]
    for thread in threads:
        thread.start()
    with waiting_lock(path):
        is_in.set()
        threads[0].join(timeout=0.2)
        order.append("first")
        path.write_text("made by the first")
    for thread in threads:
        thread.join()
    assert order == ["first", *["made by the first"] * 3]
    assert caplog.messages
    assert set(caplog.messages) == {f"waiting for another process, which makes {path}"}
    assert [p.name for p in tmp_path.iterdir()] == ["made"]


def test_a_lock_is_seen_and_one_that_is_taken_to_see_it_refuses_nobody(tmp_path):
    assert not is_locked(tmp_path)
    with locked(tmp_path):
        assert is_locked(tmp_path)
    assert not is_locked(tmp_path)
    with (tmp_path / ".lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        threading.Timer(0.02, file.close).start()
        with locked(tmp_path) as is_new:
            assert is_new
    assert not is_locked(tmp_path / "missing")

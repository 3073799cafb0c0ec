"""When work counts as stuck: offsets and time given, nothing measured."""

from __future__ import annotations

from stream_app.progress import Progress


def test_nothing_to_do_is_healthy_for_ever() -> None:
    progress = Progress(stall_s=60)
    for now_s in (0, 1_000, 100_000):
        progress.note(0, end=5, committed=5, now_s=now_s)
        assert progress.age_s() == 0
        assert progress.health().ok


def test_work_that_moves_is_healthy_however_long_the_queue() -> None:
    progress = Progress(stall_s=60)
    for i in range(100):
        progress.note(0, end=1_000_000 + 1000 * i, committed=i, now_s=50 * i)
        assert progress.health().ok
    assert progress.lags() == {0: 1_000_000 + 99_000 - 99}


def test_waiting_work_with_a_standing_committed_offset_fails() -> None:
    progress = Progress(stall_s=60)
    progress.note(0, end=5, committed=5, now_s=0)
    progress.note(0, end=6, committed=5, now_s=100)
    assert progress.age_s() == 100
    assert not progress.health().ok
    progress.note(0, end=6, committed=6, now_s=101)
    assert progress.health().ok


def test_one_stuck_partition_is_enough() -> None:
    progress = Progress(stall_s=60)
    for now_s in (0, 30, 61):
        progress.note(0, end=10, committed=10, now_s=now_s)
        progress.note(1, end=10, committed=3, now_s=now_s)
    assert not progress.health().ok
    assert "lag 7" in progress.health().detail


def test_a_partition_that_went_away_is_forgotten() -> None:
    progress = Progress(stall_s=60)
    for now_s in (0, 61):
        progress.note(0, end=10, committed=3, now_s=now_s)
    progress.assign({1})
    assert progress.health().ok
    assert progress.lags() == {}


def test_while_the_broker_is_silent_nothing_is_held_against_the_worker() -> None:
    progress = Progress(stall_s=60)
    progress.note(0, end=10, committed=3, now_s=0)
    progress.note(0, end=10, committed=3, now_s=5)
    assert progress.age_s() == 5, "however much later it is asked"


def test_a_silent_broker_is_said_with_its_time_until_it_answers() -> None:
    progress = Progress(stall_s=60)
    progress.note(0, end=10, committed=3, now_s=0)
    progress.note_silence(0)
    progress.note_silence(99_000)
    assert "Kafka does not answer since 1970-01-01T00:00:00Z" in progress.health().detail
    progress.assign({0})
    assert progress.health().detail.startswith("lag 7")

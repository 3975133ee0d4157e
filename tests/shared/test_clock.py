"""Virtual time stands where the log stands; the machine says when it was started."""

from shared.clock import SystemClock, VirtualClock, boot_id


def test_virtual_time_follows_what_it_sees() -> None:
    clock = VirtualClock(100)
    assert clock.now() == 100
    clock.observe(150)
    assert clock.now() == 150


def test_virtual_time_never_goes_back() -> None:
    clock = VirtualClock(100)
    for at in (150, 120, 0, -1):
        clock.observe(at)
    assert clock.now() == 150


def test_virtual_clocks_that_see_the_same_agree_whatever_the_order() -> None:
    one, other = VirtualClock(), VirtualClock()
    for at in (3, 9, 4):
        one.observe(at)
    for at in (9, 4, 3):
        other.observe(at)
    assert one.now() == other.now() == 9


def test_the_worlds_clock_cannot_be_told_the_time() -> None:
    clock = SystemClock()
    before = clock.now()
    clock.observe(before + 1_000_000)
    assert before <= clock.now() < before + 1_000


def test_a_boot_has_one_name() -> None:
    assert boot_id() == boot_id() != ""

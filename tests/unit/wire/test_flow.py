"""Flow control: windows, the queue that waits for them, the budget for large messages."""

from hypothesis import given
from hypothesis import strategies as st

from rusd.wire.flow import Budget, ReceiveWindow, SendQueue, widened
from rusd.wire.frames import MAX_WINDOW


def test_a_window_overflows_past_two_to_the_31() -> None:
    assert widened(MAX_WINDOW - 1, 1) == MAX_WINDOW
    assert widened(MAX_WINDOW, 1) is None
    assert widened(-10, 4) == -6


@given(st.lists(st.integers(0, 400), max_size=50))
def test_a_receive_window_gives_back_what_is_consumed_and_no_more(sizes: list[int]) -> None:
    window = ReceiveWindow(1000)
    granted = 1000
    for size in sizes:
        assert window.take(size)
        granted += window.consumed(size) - size
        assert 500 <= granted <= 1000
        assert window.available == granted


def test_taking_more_than_granted_is_an_overrun() -> None:
    window = ReceiveWindow(10)
    assert window.take(10)
    assert not window.take(1)


@given(st.lists(st.binary(max_size=30), max_size=10), st.data())
def test_a_send_queue_gives_its_bytes_in_order(pieces: list[bytes], data: st.DataObject) -> None:
    queue = SendQueue()
    queue.push(pieces, sum(map(len, pieces)))
    out = b""
    while queue.size:
        size = data.draw(st.integers(1, queue.size))
        taken = b"".join(queue.pop(size))
        assert len(taken) == size
        out += taken
    assert out == b"".join(pieces)


def test_a_whole_piece_is_not_copied() -> None:
    queue = SendQueue()
    piece = bytes(1000)
    queue.push([piece], 1000)
    assert queue.pop(1000)[0] is piece


def test_a_budget_serves_in_order_and_never_overspends() -> None:
    budget: Budget[str] = Budget(100)
    assert budget.ask("a", 60)
    assert not budget.ask("b", 60)
    assert not budget.ask("c", 10), "c came after b"
    assert budget.ask("a", 60), "a has it already"
    assert budget.release("nobody") == []
    assert budget.release("a") == ["b", "c"]
    assert not budget.ask("d", 40)
    assert budget.release("c") == ["d"]
    assert budget.release("b") == []


def test_who_gives_up_waiting_lets_the_next_one_in() -> None:
    budget: Budget[str] = Budget(100)
    budget.ask("a", 60)
    budget.ask("b", 90)
    budget.ask("c", 40)
    assert budget.release("b") == ["c"]

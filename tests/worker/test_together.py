"""What several tasks send at the same moment goes out together, and everybody gets their own answer."""

from collections.abc import Sequence

import anyio
import anyio.lowlevel
import pytest

from runner.worker import together
from runner.worker.errors import RecordError
from runner.worker.together import MOST, Together

pytestmark = pytest.mark.anyio


class Post:
    """Sends numbers, and answers with ten times as much.

    Attributes:
        sent: What was sent, request by request.
        errors: What to raise first, one for each request.
        is_open: Answers come once this is set.
    """

    def __init__(self, *errors: Exception | None, gathering_s: float = 0.01):
        self.sent: list[list[int]] = []
        self.errors = list(errors)
        self.is_open = anyio.Event()
        self.is_open.set()
        self.together = Together(self._one, self._several, gathering_s=gathering_s)

    async def _one(self, item: int) -> int:
        return (await self._several([item], name="one"))[0]

    async def _several(self, items: Sequence[int], name: str = "several") -> list[int]:
        assert (name == "one") == (len(items) == 1)
        self.sent.append(list(items))
        await self.is_open.wait()
        if self.errors and (error := self.errors.pop(0)) is not None:
            raise error
        return [10 * item for item in items]

    async def send(self, *items: int) -> dict[int, int | RecordError | None]:
        """Send at the same moment; return what came back of each."""
        answers: dict[int, int | RecordError | None] = dict.fromkeys(items)

        async def send(item: int) -> None:
            try:
                answers[item] = await self.together.send(item)
            except RecordError as error:
                answers[item] = error

        async with anyio.create_task_group() as tasks:
            for item in items:
                tasks.start_soon(send, item)
        return answers


async def test_what_comes_within_a_moment_goes_out_together_and_what_comes_later_by_itself() -> None:
    post = Post()
    assert await post.send(1, 2, 3) == {1: 10, 2: 20, 3: 30}
    assert await post.send(4) == {4: 40}
    assert [sorted(items) for items in post.sent] == [[1, 2, 3], [4]]


async def test_while_one_request_is_on_the_next_gathers() -> None:
    post = Post()
    post.is_open = anyio.Event()
    answers: list[int] = []

    async def send(item: int) -> None:
        answers.append(await post.together.send(item))

    async with anyio.create_task_group() as tasks:
        for round_of in ((1, 2), (3, 4)):
            for item in round_of:
                tasks.start_soon(send, item)
            await anyio.sleep(0.05)
        assert [sorted(items) for items in post.sent] == [[1, 2], [3, 4]]
        post.is_open.set()
    assert sorted(answers) == [10, 20, 30, 40]


async def test_no_request_is_for_more_than_the_most() -> None:
    post = Post()
    items = range(2 * MOST + 1)
    assert await post.send(*items) == {item: 10 * item for item in items}
    assert sorted(len(sent) for sent in post.sent) == [1, MOST, MOST]


@pytest.mark.parametrize(
    "error",
    [
        RecordError("HTTP 400", transient=False, status=400),
        RecordError("does not answer within 30 s", transient=True),
        ValueError("what is this"),
    ],
)
async def test_after_several_failed_together_each_is_sent_for_itself_for_a_while(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(together, "APART_S", 0.2)
    post = Post(error, None, RecordError("x", transient=False))
    failed = await post.send(1, 2)
    # What is wrong with one of them is not the other's fault: both are worth trying again.
    for failure in failed.values():
        assert isinstance(failure, RecordError) and failure.transient and str(error) in str(failure)
        assert failure.status == getattr(error, "status", None)
    again = await post.send(1, 2)
    assert again[1] == 10 and isinstance(again[2], RecordError) and not again[2].transient
    await anyio.sleep(0.25)
    assert await post.send(1, 2) == {1: 10, 2: 20}
    assert [len(sent) for sent in post.sent] == [2, 1, 1, 2]


async def test_a_refusal_of_one_is_its_own() -> None:
    refusal = RecordError("HTTP 400", transient=False, status=400)
    post = Post(refusal)
    assert await post.send(1) == {1: refusal}
    assert await post.send(1, 2) == {1: 10, 2: 20}
    post.errors.append(ValueError("what is this"))
    with pytest.raises(ValueError, match="what is this"):
        await post.together.send(1)
    assert await post.send(1, 2) == {1: 10, 2: 20}


@pytest.mark.parametrize("is_sending", [False, True])
async def test_when_whoever_sends_is_stopped_the_others_try_again(is_sending: bool) -> None:
    post = Post(gathering_s=0.05)
    if is_sending:
        post.is_open = anyio.Event()
    errors: list[RecordError] = []

    async def follow() -> None:
        with pytest.raises(RecordError, match="may not have been sent") as caught:
            await post.together.send(2)
        errors.append(caught.value)

    async with anyio.create_task_group() as tasks:
        leader = anyio.CancelScope()

        async def lead() -> None:
            with leader:
                await post.together.send(1)

        tasks.start_soon(lead)
        await anyio.lowlevel.checkpoint()
        tasks.start_soon(follow)
        await anyio.sleep(0.1 if is_sending else 0.01)
        assert len(post.sent) == is_sending
        leader.cancel()
    assert [error.transient for error in errors] == [True]
    post.is_open.set()
    assert await post.send(2, 3) == {2: 20, 3: 30}


async def test_whoever_waits_and_is_stopped_holds_nobody_up() -> None:
    post = Post(gathering_s=0.05)
    answers: list[int] = []

    async def lead() -> None:
        answers.append(await post.together.send(1))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lead)
        await anyio.lowlevel.checkpoint()
        with anyio.move_on_after(0.01):
            await post.together.send(2)
    assert answers == [10]
    assert post.sent == [[1, 2]]

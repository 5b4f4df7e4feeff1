"""The inference thread: chunks from several requests, in turn. Real networks test the numbers, tiny ones the order."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from processors.inference import PICTURE_DONE_S, Inference, Networks
from processors.networks import Detector, Embedder, TorchEmbedder
from weights.load import load_detector, load_embedder

Pixels = NDArray[np.uint8]
CPU = torch.device("cpu")
ONE = "one"  # a generation
DETECTOR = "detector"


class Tiny(nn.Module):
    """An embedder that returns mean colours. It records which pictures share a chunk, by their first pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.chunks: list[list[int]] = []
        self.go_on = threading.Event()
        self.go_on.set()
        self.entered = threading.Event()

    def forward(self, x: Tensor) -> Tensor:
        self.chunks.append(x[:, 0, 0, 0].int().tolist())
        self.entered.set()
        assert self.go_on.wait(20)
        if (x == 13).any():
            raise ValueError("thirteen")
        return x.mean((2, 3))


class TinyHeads(Tiny):
    """The same for a detector that never finds a face."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # type: ignore[override]  # CenterFace's heads
        super().forward(x)
        size = (len(x), 1, x.shape[2] // 4, x.shape[3] // 4)
        none = torch.zeros(size)
        return none, none.expand(-1, 2, -1, -1), none.expand(-1, 2, -1, -1), none.expand(-1, 10, -1, -1)


def chip(colour: int) -> Pixels:
    return np.full((4, 4, 3), colour, np.uint8)


def picture(colour: int, height: int = 32, width: int = 32) -> Pixels:
    return np.full((height, width, 3), colour, np.uint8)


@pytest.fixture
def tiny() -> Tiny:
    return Tiny()


@pytest.fixture
def heads() -> TinyHeads:
    return TinyHeads()


@pytest.fixture
def inference(tiny: Tiny, heads: TinyHeads) -> Iterator[Inference]:
    detector = Detector(heads, CPU, torch.float32, score_threshold=0.5)
    embedders: dict[str, Embedder] = {ONE: TorchEmbedder(tiny, CPU, mirror=False)}
    made = Inference(Networks(4 * 32 * 32, 8, {DETECTOR: detector}, embedders))
    yield made
    tiny.go_on.set()
    heads.go_on.set()
    made.close()


async def entered(network: Tiny) -> None:
    assert await asyncio.to_thread(network.entered.wait, 20)


async def refuses(inference: Inference) -> bool:
    try:
        await asyncio.wait_for(inference.embed(ONE, [chip(3)]), 0.01)
    except TimeoutError:  # it waits for its turn
        return False
    except RuntimeError:
        return True
    raise AssertionError("the inference went on")


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        await asyncio.sleep(0.001)


async def in_order_of_completion(*tasks: asyncio.Task[Any]) -> list[asyncio.Task[Any]]:
    finished: list[asyncio.Task[Any]] = []
    for task in tasks:
        task.add_done_callback(finished.append)
    await asyncio.wait(tasks, timeout=20)
    await asyncio.sleep(0)
    return finished


# Order, with the tiny networks.


async def test_each_picture_gets_its_own_result(inference: Inference) -> None:
    colours = [list(range(start, start + 11)) for start in (20, 60, 100)]
    found = await asyncio.gather(*(inference.embed(ONE, [chip(each) for each in part]) for part in colours))
    for part, vectors in zip(colours, found, strict=True):
        assert vectors.tolist() == [[each] * 3 for each in part]


async def test_requests_that_wait_together_share_a_chunk(inference: Inference, tiny: Tiny) -> None:
    tiny.go_on.clear()
    first = asyncio.create_task(inference.embed(ONE, [chip(1)]))
    await entered(tiny)
    others = [asyncio.create_task(inference.embed(ONE, [chip(each)])) for each in range(2, 8)]
    await asyncio.sleep(0)
    tiny.go_on.set()
    await asyncio.gather(first, *others)
    assert tiny.chunks == [[1], [2, 3, 4, 5, 6, 7]]


async def test_a_photo_of_a_crowd_does_not_delay_a_portrait(inference: Inference, tiny: Tiny) -> None:
    """The portrait came later, but is served before the rest of the crowd."""
    tiny.go_on.clear()
    crowd = asyncio.create_task(inference.embed(ONE, [chip(1)] * 1_000, since=0.0))
    await entered(tiny)
    portrait = asyncio.create_task(inference.embed(ONE, [chip(2)], since=PICTURE_DONE_S * 5))
    await asyncio.sleep(0)
    tiny.go_on.set()
    assert await in_order_of_completion(crowd, portrait) == [portrait, crowd]
    assert len(crowd.result()) == 1_000
    assert [2 in chunk for chunk in tiny.chunks[:3]] == [False, True, False]
    assert all(len(chunk) <= 8 for chunk in tiny.chunks)
    assert len(tiny.chunks) == 1 + 125  # the portrait is among them, and every chunk but the last is full


async def test_crowds_share_fairly(inference: Inference, tiny: Tiny) -> None:
    tiny.go_on.clear()
    crowds = [asyncio.create_task(inference.embed(ONE, [chip(colour)] * 40, since=0.0)) for colour in (1, 2, 3)]
    await entered(tiny)
    await asyncio.sleep(0)
    tiny.go_on.set()
    await asyncio.gather(*crowds)
    served = [
        tuple(sum(chunk.count(colour) for chunk in tiny.chunks[1 : i + 1]) for colour in (1, 2, 3)) for i in range(1, 9)
    ]
    assert all(max(each) - min(each) <= 2 for each in served)


async def test_detection_and_embedding_take_turns(inference: Inference, tiny: Tiny, heads: TinyHeads) -> None:
    tiny.go_on.clear()
    crowd = asyncio.create_task(inference.embed(ONE, [chip(1)] * 80, since=0.0))
    await entered(tiny)
    heads.go_on.clear()
    photo = asyncio.create_task(inference.detect(DETECTOR, [picture(5)] * 2, since=PICTURE_DONE_S * 5))
    await asyncio.sleep(0)
    tiny.go_on.set()
    await entered(heads)
    assert len(tiny.chunks) < 10  # of the crowd: some are left
    heads.go_on.set()
    await asyncio.gather(crowd, photo)
    assert heads.chunks == [[5, 5]]


async def test_the_older_image_is_served_first(inference: Inference, tiny: Tiny) -> None:
    tiny.go_on.clear()
    under_way = asyncio.create_task(inference.embed(ONE, [chip(1)], since=0.0))
    await entered(tiny)
    young = asyncio.create_task(inference.embed(ONE, [chip(2)] * 8, since=2.0))
    await asyncio.sleep(0)
    old = asyncio.create_task(inference.embed(ONE, [chip(3)] * 8, since=1.0))
    await asyncio.sleep(0)
    tiny.go_on.set()
    await asyncio.gather(under_way, young, old)
    assert tiny.chunks == [[1], [3] * 8, [2] * 8]


async def test_pictures_of_one_shape_share_a_chunk_within_its_pixels(inference: Inference, heads: TinyHeads) -> None:
    pictures = [
        picture(1),
        picture(2, 64, 64),
        picture(3),
        picture(4, 32, 64),
        picture(5),
        picture(6),
        picture(7),
        picture(8),
    ]
    found = await inference.detect(DETECTOR, pictures)
    assert [len(each) for each in found] == [0] * 8
    assert sorted(map(sorted, heads.chunks)) == [[1, 3, 5, 6], [2], [4], [7, 8]]


async def test_a_picture_larger_than_a_chunk_is_detected_in_alone(inference: Inference, heads: TinyHeads) -> None:
    await inference.detect(DETECTOR, [picture(1, 320, 320), picture(2, 320, 320)])
    assert heads.chunks == [[1], [2]]


async def test_each_detector_has_its_own_chunks_and_with_mirror_chunks_of_half_the_size(
    inference: Inference, heads: TinyHeads
) -> None:
    twice = TinyHeads()
    await inference.add_detector("twice", lambda: Detector(twice, CPU, torch.float32, score_threshold=0.5, mirror=True))
    await asyncio.gather(
        inference.detect(DETECTOR, [picture(it) for it in range(1, 5)]),
        inference.detect("twice", [picture(it) for it in range(5, 9)]),
    )
    assert heads.chunks == [[1, 2, 3, 4]]
    assert twice.chunks == [[5, 6], [5, 6], [7, 8], [7, 8]]


async def test_an_unknown_detector_is_an_error(inference: Inference) -> None:
    with pytest.raises(KeyError):
        await inference.detect("another", [picture(1)])
    assert await inference.detect(DETECTOR, []) == []


async def test_no_pictures_no_results(inference: Inference) -> None:
    assert await inference.detect(DETECTOR, []) == []


# Failures.


async def test_an_error_fails_the_requests_of_its_chunk_alone(inference: Inference, tiny: Tiny) -> None:
    tiny.go_on.clear()
    before = asyncio.create_task(inference.embed(ONE, [chip(1)]))
    await entered(tiny)
    # Requests with equally many pictures, so that their number does not tell them apart.
    requests = [asyncio.create_task(inference.embed(ONE, [chip(colour)] * 12)) for colour in (2, 13)]
    later = asyncio.create_task(inference.detect(DETECTOR, [picture(3)] * 12))
    await asyncio.sleep(0)
    tiny.go_on.set()
    found = await asyncio.wait_for(asyncio.gather(before, *requests, later, return_exceptions=True), 20)
    assert not isinstance(found[0], BaseException)
    assert [str(it) for it in found[1:3]] == ["thirteen"] * 2
    assert isinstance(found[3], list)
    assert (await asyncio.wait_for(inference.embed(ONE, [chip(4)] * 12), 20)).shape == (12, 3)


async def test_an_error_in_one_chunk_of_many_requests_leaves_those_not_in_it(inference: Inference, tiny: Tiny) -> None:
    tiny.go_on.clear()
    before = asyncio.create_task(inference.embed(ONE, [chip(1)]))
    await entered(tiny)
    colours = [*range(20, 27), 13, *range(30, 50)]  # eight of them in the first chunk
    requests = [asyncio.create_task(inference.embed(ONE, [chip(colour)] * 2)) for colour in colours]
    await asyncio.sleep(0)
    tiny.go_on.set()
    found = await asyncio.wait_for(asyncio.gather(*requests, return_exceptions=True), 20)
    await before
    assert [isinstance(it, ValueError) for it in found] == [True] * 8 + [False] * 20


async def test_a_cancelled_request_does_not_delay_others(inference: Inference, tiny: Tiny) -> None:
    tiny.go_on.clear()
    first = asyncio.create_task(inference.embed(ONE, [chip(1)]))
    await entered(tiny)
    impatient = asyncio.create_task(inference.embed(ONE, [chip(2)] * 20))
    await asyncio.sleep(0)
    impatient.cancel()
    await asyncio.wait([impatient])
    tiny.go_on.set()
    assert (await first).tolist() == [[1, 1, 1]]
    assert (await asyncio.wait_for(inference.embed(ONE, [chip(3)] * 20), 20)).shape == (20, 3)


async def test_close_finishes_the_current_chunk_and_cancels_the_rest(inference: Inference, tiny: Tiny) -> None:
    tiny.go_on.clear()
    under_way = asyncio.create_task(inference.embed(ONE, [chip(1)]))
    await entered(tiny)
    waiting = asyncio.create_task(inference.embed(ONE, [chip(2)] * 9))
    await asyncio.sleep(0)
    closing = asyncio.create_task(asyncio.to_thread(inference.close))
    while not await refuses(inference):
        pass
    tiny.go_on.set()
    await asyncio.wait_for(closing, 20)
    assert (await under_way).tolist() == [[1, 1, 1]]
    with pytest.raises(asyncio.CancelledError):
        await waiting
    with pytest.raises(RuntimeError, match="ended"):
        await inference.embed(ONE, [chip(3)])
    assert "inference" not in [thread.name for thread in threading.enumerate()]


# Numbers, with the real networks.


@pytest.fixture(scope="module")
def real(weights_folder: Path) -> Iterator[Callable[[int, int], Inference]]:
    detector = Detector(
        load_detector(weights_folder, "centerface", CPU, torch.float32), CPU, torch.float32, score_threshold=0.5
    )
    embedder = TorchEmbedder(load_embedder(weights_folder, "dlib-resnet29", CPU, torch.float32), CPU, mirror=True)
    made = []

    def make(chunk_pixels: int, chunk_chips: int) -> Inference:
        made.append(Inference(Networks(chunk_pixels, chunk_chips, {DETECTOR: detector}, {ONE: embedder})))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture(scope="module")
def pictures(photos: Path) -> list[Pixels]:
    """Faces at different places, all of one shape."""
    made = []
    for name, size in (("obama.jpg", 256), ("biden.jpg", 256), ("obama2.jpg", 192)):
        canvas = Image.new("RGB", (256, 256), "gray")
        with Image.open(photos / name) as photo:
            small = photo.convert("RGB")
            small.thumbnail((size, size))
            canvas.paste(small, (256 - small.width, 0))
        made.append(np.asarray(canvas))
    return made


async def test_a_batch_finds_what_each_picture_alone_finds(
    real: Callable[[int, int], Inference], pictures: list[Pixels]
) -> None:
    together = await real(1 << 24, 8).detect(DETECTOR, pictures)
    alone = real(1, 8)
    for picture, batch in zip(pictures, together, strict=True):
        (single,) = await alone.detect(DETECTOR, [picture])
        assert len(single) == len(batch) >= 1
        np.testing.assert_allclose(batch.boxes, single.boxes, atol=0.01)
        np.testing.assert_allclose(batch.scores, single.scores, atol=1e-4)
        np.testing.assert_allclose(batch.landmarks, single.landmarks, atol=0.01)


async def test_a_batch_embeds_as_each_chip_alone(real: Callable[[int, int], Inference], pictures: list[Pixels]) -> None:
    chips = [np.ascontiguousarray(each[:150, 106:]) for each in pictures] + [
        np.ascontiguousarray(pictures[0][50:200, 50:200])
    ]
    together = await real(1, 16).embed(ONE, chips)
    alone = await real(1, 1).embed(ONE, chips)
    assert together.shape == (4, 128)
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert np.linalg.norm(together[0] - together[1]) > 0.1

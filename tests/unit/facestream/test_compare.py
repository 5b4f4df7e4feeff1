"""`facestream models compare`, on small stores with artificial vectors whose best matches are known."""

import asyncio
import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import structlog
from PIL import Image

from backends.vectors import Face, FaceVector
from facestream.admin import comparison
from facestream.admin.comparison import compare_generations, select_differences
from facestream.admin.comparison_sheet import CELL, COLUMNS, GAP, LINE, draw_sheet
from facestream.cli import main
from facestream.config import Settings
from facestream.runtime.stores import Stores, create_stores, open_stores
from schemas.arrays import Float32Array
from schemas.errors import NotFound
from schemas.generation_records import Generation
from schemas.ids import crop_key
from sink.evaluate import comparing, leave_one_out
from sink.evaluate.comparing import BestMatch, Difference, LearnedFaces, accuracy_of, find_differences, match_directory
from sink.evaluate.leave_one_out import match_same_person
from stream.generations import generation_record
from tests.records import face_id
from weights.manifest import manifest

OLD, NEW = "dlib-resnet29-mirror", "new-one"


def unit(*values: float) -> Float32Array:
    vector = np.array(values, np.float32)
    return vector / np.float32(np.linalg.norm(vector))


def angle(degrees: float) -> Float32Array:
    """A vector on a circle: the nearest vectors have the smallest difference of angles."""
    return unit(np.cos(np.radians(degrees)), np.sin(np.radians(degrees)))


# Ann's second face is Bob's in OLD, Bob's second one is Ann's in NEW; Cid has a single one.
FACES = ("ann 1", "ann 2", "bob 1", "bob 2", "cid 1")
OLD_ANGLES = dict(zip(FACES, (0.0, 52.0, 90.0, 80.0, 180.0), strict=True))
NEW_ANGLES = dict(zip(FACES, (0.0, 10.0, 90.0, 35.0, 180.0), strict=True))


def faces(angles: dict[str, float]) -> LearnedFaces:
    keys = [(name.split()[0], face_id(name)) for name in angles]
    order = sorted(range(len(keys)), key=keys.__getitem__)
    return LearnedFaces([keys[i] for i in order], np.stack([3 * angle(list(angles.values())[i]) for i in order]))


def by_name(of: LearnedFaces, values: Sequence[Any]) -> dict[str, Any]:
    names = {face_id(name): name for name in FACES}
    return {names[key[1]]: value for key, value in zip(of.keys, values, strict=True)}


def test_each_face_is_matched_against_all_others() -> None:
    old = match_directory(faces(OLD_ANGLES), None)
    first = by_name(faces(OLD_ANGLES), old.best)
    assert {name: it.person for name, it in first.items()} == {
        "ann 1": "ann",  # 52 degrees to ann 2, and 80 and 90 to bob's
        "ann 2": "bob",  # 28 and 38 degrees to bob's, 52 to ann 1
        "bob 1": "bob",
        "bob 2": "bob",
        "cid 1": "bob",
    }
    assert first["ann 2"].face_id == face_id("bob 2")
    assert first["bob 1"].face_id == face_id("bob 2")
    # the mean of best and mean of the cosines, as everywhere
    cosines = np.cos(np.radians([28, 38]))
    assert first["ann 2"].similarity == pytest.approx((cosines.max() + cosines.mean()) / 2, abs=1e-6)
    assert first["bob 1"].similarity == pytest.approx(np.cos(np.radians(10)), abs=1e-6)
    assert by_name(faces(OLD_ANGLES), old.has_several.tolist()) == dict(zip(FACES, [True] * 4 + [False], strict=True))
    strangers = by_name(faces(OLD_ANGLES), old.strangers.tolist())
    of_ann = np.cos(np.radians([80, 28]))
    assert strangers["bob 2"] == pytest.approx((of_ann.max() + of_ann.mean()) / 2, abs=1e-6)


def test_a_difference_is_a_face_that_only_one_generation_matches_correctly() -> None:
    old, new = (match_directory(faces(it), None) for it in (OLD_ANGLES, NEW_ANGLES))
    found = find_differences("d", faces(OLD_ANGLES).keys, old, new)
    assert [(it.person, it.face_id, it.right, it.old.person, it.new.person) for it in found] == [
        ("ann", face_id("ann 2"), "new", "bob", "ann"),
        ("bob", face_id("bob 2"), "old", "bob", "ann"),
    ]
    shares = [accuracy_of([it]) for it in (old, new)]
    assert [it.portraits for it in shares] == [4, 4]
    assert shares[0].right == 0.75


def test_agrees_with_a_plain_loop_and_leaves_out_only_the_face() -> None:
    chance = np.random.default_rng(0)
    persons = sorted(f"p{chance.integers(12)}" for _ in range(60))
    vectors = chance.normal(size=(60, 6)).astype(np.float32)
    those = LearnedFaces([(person, f"{i:032x}") for i, person in enumerate(persons)], vectors)
    found = match_directory(those, None)
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for i, person in enumerate(persons):
        scores = {}
        for other in set(persons):
            rows = [j for j, it in enumerate(persons) if it == other and j != i]
            if rows:
                cosines = units[rows] @ units[i]
                scores[other] = (cosines.max() + cosines.mean()) / 2
        best = max(scores, key=scores.__getitem__)
        first = found.best[i]
        assert first is not None
        assert first.person == best
        assert first.similarity == pytest.approx(scores[best], abs=1e-5)
        assert found.strangers[i] == pytest.approx(max(score for it, score in scores.items() if it != person), abs=1e-5)


def test_many_faces_of_one_person_are_looked_at_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    units = np.random.default_rng(0).normal(size=(50, 5)).astype(np.float32)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    whole = match_same_person(units)
    monkeypatch.setattr(leave_one_out, "FACES_PER_PRODUCT", 7)
    parts = match_same_person(units)
    assert parts.nearest.tolist() == whole.nearest.tolist()
    assert parts.similarity == pytest.approx(whole.similarity, abs=1e-6)
    assert (whole.nearest != np.arange(50)).all()


def test_a_single_person_cannot_be_taken_for_anybody_else() -> None:
    one = LearnedFaces([("ann", face_id("1"))], np.ones((1, 3), np.float32))
    found = match_directory(one, None)
    assert found.best == [None]
    assert (found.correct.tolist(), found.strangers.tolist()) == ([False], [-1])
    assert accuracy_of([found]).strangers_named is None
    two = match_directory(
        LearnedFaces([("ann", face_id("1")), ("ann", face_id("2"))], np.ones((2, 3), np.float32)), None
    )
    assert two.correct.all()
    assert accuracy_of([two]).strangers == 0


def test_strangers_are_named_as_often_as_they_are_above_the_threshold() -> None:
    """200 people with random vectors: about 1 in 100 is above the threshold, and the figures count those."""
    chance = np.random.default_rng(0)
    those = LearnedFaces(
        [(f"{i:04}", f"{i:032x}") for i in range(200)], chance.normal(size=(200, 16)).astype(np.float32)
    )
    table = manifest().generation(OLD).threshold
    found = match_directory(those, table)
    shares = accuracy_of([found])
    assert shares.portraits == 0
    assert shares.right is None
    assert shares.strangers == 200
    assert found.threshold is not None
    assert shares.strangers_named == np.mean(found.strangers >= found.threshold)
    assert shares.strangers_below is not None
    assert shares.strangers_below[0] == pytest.approx(found.threshold - np.median(found.strangers), abs=1e-6)


def test_without_a_threshold_there_are_no_shares_of_named_faces() -> None:
    with_one, without = (
        match_directory(faces(OLD_ANGLES), manifest().generation(OLD).threshold),
        match_directory(faces(OLD_ANGLES), None),
    )
    assert [it and it.person for it in with_one.best] == [it and it.person for it in without.best]
    first = by_name(faces(OLD_ANGLES), with_one.best)
    assert (first["bob 1"].named, first["ann 2"].named) == (True, False)
    assert {it and it.named for it in without.best} == {None}
    assert accuracy_of([with_one]).named == 0.5  # bob's two
    shares = accuracy_of([with_one, without])
    assert (shares.portraits, shares.strangers, shares.right) == (8, 10, 0.75)
    assert (shares.named, shares.strangers_named, shares.strangers_below) == (None, None, None)


class Done(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Awaitable[Done]]


@pytest.fixture
async def stores(tmp_path: Path) -> AsyncIterator[Stores]:
    async with open_stores(Settings(data=tmp_path / "data")) as stores:
        await create_stores(stores)
        yield stores


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    async def run(*arguments: str) -> Done:
        def command() -> int:
            try:
                return main(["models", "compare", *arguments, "--data", str(tmp_path / "data")])
            except SystemExit as ended:
                return int(ended.code or 0)

        code = await asyncio.to_thread(command)
        structlog.reset_defaults()
        return Done(code, *capsys.readouterr())

    return run


def generation(name: str, state: str = "complete") -> Generation:
    return manifest().generation(OLD).model_copy(update={"name": name, "state": state, "dimension": 2})


async def learned(stores: Stores, generation: str, angles: dict[str, float], directory: str = "demo") -> None:
    await stores.vectors.put_faces(
        [
            FaceVector(
                directory,
                generation,
                Face(name.split()[0], face_id(name), face_id(f"image of {name}"), f"{name}#0", 1_000),
                2 * angle(degrees),
            )
            for name, degrees in angles.items()
        ]
    )


async def both(stores: Stores) -> None:
    await stores.log.append([generation_record(generation(NEW))])
    await learned(stores, OLD, OLD_ANGLES)
    await learned(stores, NEW, NEW_ANGLES)


async def test_the_command_prints_the_figures_and_differences_of_both_generations(stores: Stores, run: Run) -> None:
    await both(stores)
    done = await run(OLD, NEW)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0] == "5 faces in 1 directory"
    assert lines[1].split() == [OLD, NEW]
    assert next(line for line in lines if line.startswith("own person first")).split()[-2:] == ["75.00%", "75.00%"]
    assert f"only {OLD} is right: 1, only {NEW} is right: 1" in lines
    rows = [line for line in lines if line.startswith("demo\t")]
    assert [row.split()[1:3] for row in rows] == [["bob", face_id("bob 2")], ["ann", face_id("ann 2")]]
    assert "comparing: 10 of 10" in done.err


async def test_json_has_everything(stores: Stores, run: Run) -> None:
    await both(stores)
    await learned(stores, OLD, {"dan 1": 0.0}, "other")
    await learned(stores, NEW, {"dan 1": 0.0, "dan 2": 5.0}, "other")
    done = await run(OLD, NEW, "--json")
    found = json.loads(done.out)
    assert (found["old"], found["new"], found["faces"]) == (OLD, NEW, 6)
    assert found["directories"] == ["demo", "other"]
    assert found["left_out"] == {"only_old": 0, "only_new": 1}
    assert found["old_figures"]["portraits"] == 4
    assert found["old_figures"]["right"] == 0.75
    assert {it["person"]: (it["right"], it["old"]["person"], it["new"]["person"]) for it in found["differences"]} == {
        "ann": ("new", "bob", "ann"),
        "bob": ("old", "bob", "ann"),
    }
    one = json.loads((await run(OLD, NEW, "--json", "--directory", "other")).out)
    assert (one["directories"], one["faces"], one["differences"]) == (["other"], 1, [])


async def test_faces_missing_in_one_generation_are_counted_and_left_out(stores: Stores, run: Run) -> None:
    await stores.log.append([generation_record(generation(NEW, "candidate"))])
    await learned(stores, OLD, OLD_ANGLES)
    await learned(stores, NEW, {name: NEW_ANGLES[name] for name in FACES[:3]})
    done = await run(OLD, NEW)
    assert done.code == 0
    assert done.out.splitlines()[:2] == [
        "3 faces in 1 directory",
        f"2 more that only {OLD} has were left out: `facestream reembed {NEW}` makes them",
    ]


async def test_people_with_a_single_portrait_are_not_counted_as_right_or_wrong(stores: Stores, run: Run) -> None:
    await stores.log.append([generation_record(generation(NEW))])
    for name in (OLD, NEW):
        await learned(stores, name, {"ann 1": 0.0, "bob 1": 40.0})
    done = await run(OLD, NEW)
    assert done.code == 0
    assert "no person has two portraits" in done.out
    assert "own person first, of 0 portraits" in done.out


async def test_errors_say_what_to_do(stores: Stores, run: Run, tmp_path: Path) -> None:
    await stores.log.append([generation_record(generation(NEW)), generation_record(generation("gone", "retired"))])
    assert (await run(OLD, "nobody")) == (
        1,
        "",
        f"facestream: no generation 'nobody': there are {OLD}, {NEW}, gone (facestream models list)\n",
    )
    assert "generation 'gone' is retired" in (await run(OLD, "gone")).err
    assert f"generation '{OLD}' has no faces: make them with `facestream reembed {OLD}`" in (await run(OLD, NEW)).err
    await learned(stores, OLD, {"ann 1": 0.0})
    assert f"generation '{NEW}' has no faces" in (await run(OLD, NEW)).err
    await learned(stores, NEW, {"ann 2": 0.0})
    done = await run(OLD, NEW)
    assert done.code == 1
    assert f"'{OLD}' and '{NEW}' have no face in common, 1 and 1 of their own" in done.err
    assert (
        f"directory 'elsewhere' has no faces in generation '{OLD}'"
        in (await run(OLD, NEW, "--directory", "elsewhere")).err
    )
    for arguments, message in (
        ((OLD, OLD), "compare two generations"),
        ((OLD, NEW, "--directory", " "), "--directory: a name must not be empty"),
        ((OLD, NEW, "--sheet", "sheet.txt"), "its suffix says the format"),
        ((OLD, NEW, "--sheet", str(tmp_path)), "its suffix says the format"),
    ):
        done = await run(*arguments)
        assert (done.code, done.out) == (2, "")
        assert message in done.err


async def test_a_person_erased_between_listing_and_reading_is_left_out(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bob is erased in one generation before it is read: he is a candidate in neither."""
    await both(stores)
    whole, erased = comparing.read_faces, False

    async def read(*arguments: Any) -> LearnedFaces:
        nonlocal erased
        if not erased:
            erased = True
            await stores.vectors.delete_faces("demo", [OLD, NEW], 5_000, person="bob")
        return await whole(*arguments)

    monkeypatch.setattr(comparison, "read_faces", read)
    found = await compare_generations(stores.vectors, generation(OLD), generation(NEW), None)
    assert found.faces == 3
    assert found.differences == []

    async def read_all_erased(*arguments: Any) -> LearnedFaces:
        await stores.vectors.delete_faces("demo", [OLD, NEW], 5_000)
        return await whole(*arguments)

    monkeypatch.setattr(comparison, "read_faces", read_all_erased)
    with pytest.raises(NotFound, match="erased in the meantime"):
        await compare_generations(stores.vectors, generation(OLD), generation(NEW), None)


def jpeg(colour: tuple[int, int, int]) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (240, 240), colour).save(file, "JPEG", quality=95)
    return file.getvalue()


async def test_the_sheet_shows_each_face_and_the_match_of_each_generation(
    stores: Stores, run: Run, tmp_path: Path
) -> None:
    await both(stores)
    colours = dict(zip(FACES, ((200, 0, 0), (220, 120, 0), (0, 0, 200), (0, 160, 200), (90, 90, 90)), strict=True))
    for name, colour in colours.items():
        if name != "ann 1":
            await stores.objects.put(crop_key(face_id(name)), jpeg(colour))
    path = tmp_path / "new folder" / "sheet.jpg"
    done = await run(OLD, NEW, "--sheet", str(path))
    assert done.code == 0, done.err
    with Image.open(path, formats=["JPEG"]) as sheet:
        sheet.load()
        assert sheet.size == (COLUMNS * (3 * CELL + 2 * GAP) + GAP, CELL + 3 * LINE + 2 * GAP)
        middles = [
            sheet.getpixel((GAP + block * (3 * CELL + 2 * GAP) + column * CELL + CELL // 2, GAP + LINE + CELL // 3))
            for block in range(2)
            for column in range(3)
        ]
    # bob 2: OLD says bob 1; NEW says ann 2. ann 2: OLD says bob 2; NEW says ann 1, whose picture is gone
    wanted = [colours[it] for it in ("bob 2", "bob 1", "ann 2", "ann 2", "bob 2")]
    for seen, colour in zip(middles, [*wanted, (0, 114, 62)], strict=True):
        assert seen == pytest.approx(colour, abs=12)


async def test_a_sheet_of_many_differences_shows_some_of_both_kinds(stores: Stores, tmp_path: Path) -> None:
    first = BestMatch("somebody with a name that is too long for a cell of this size", face_id("x"), 0.5, False)
    found = [Difference("d", f"p{i}", face_id(str(i)), first, first, "old" if i < 300 else "new") for i in range(330)]
    assert [sum(it.right == side for it in select_differences(found, 100)) for side in ("old", "new")] == [70, 30]
    assert select_differences(found[:20], 100) == found[:20]
    path = tmp_path / "sheet.png"
    await draw_sheet(stores.objects, found, (OLD, NEW), path)
    with Image.open(path) as sheet:
        assert sheet.size == (COLUMNS * (3 * CELL + 2 * GAP) + GAP, 50 * (CELL + 2 * LINE + GAP) + LINE + GAP)


async def test_without_a_difference_nothing_is_drawn(stores: Stores, run: Run, tmp_path: Path) -> None:
    await stores.log.append([generation_record(generation(NEW))])
    for name in (OLD, NEW):
        await learned(stores, name, OLD_ANGLES)
    done = await run(OLD, NEW, "--sheet", str(tmp_path / "sheet.jpg"))
    assert done.code == 0
    assert "the two do not differ" in done.out
    assert not (tmp_path / "sheet.jpg").exists()


def test_a_face_is_never_its_own_nearest_face() -> None:
    found = match_same_person(np.array([[1, 0], [-1, 0]], np.float32))
    assert found.similarity.tolist() == [-1, -1]
    assert found.nearest.tolist() == [1, 0]


def test_a_face_with_a_wrong_name_does_not_count_as_named() -> None:
    """Ann's second face is taken for Bob, above a threshold that every face reaches."""
    low = manifest().generation(OLD).threshold
    assert low is not None
    low = low.model_copy(
        update={column: [-1.0] * len(low.people) for column in ("one_in_10", "one_in_100", "one_in_1000")}
    )
    found = match_directory(faces(OLD_ANGLES), low)
    assert accuracy_of([found]).named == np.mean(
        [found.correct[i] and found.named[i] for i in np.flatnonzero(found.has_several)]
    )
    assert found.named[~found.correct].any()

"""`facestream restore`: what was erased does not come back, and what was not is there. Without models: see
installation.py. tests/e2e/test_backup.py has the service, under load and with kills.
"""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from backends.files.paths import files_below, key_of, path_of
from backends.sqlite.snapshots import read_records
from facestream.admin import backup
from facestream.admin.backup import read_backup
from facestream.admin.embedded_files import embedded_files
from facestream.admin.restored_files import discard_staged, stage, staged_files
from facestream.config import Settings
from facestream.progress import Progress
from facestream.runtime.data_folder import UNFINISHED_RESTORE
from schemas.erasure_records import LogIdentity
from schemas.erasures import AnyErasure, DirectoryErasure, FaceErasure, ImageErasure, PersonErasure
from schemas.ids import learned_face_id, original_key
from stream.erase.erasures import IDENTITY_KEY
from stream.topics import ERASURES
from tests.records import answer_with_name, dead_letter_of, image_id, image_received
from tests.unit.facestream.installation import DIRECTORY, Installation, pictures

ANN = image_id("ann")
ERASURES_OF_ANN: dict[str, AnyErasure] = {
    "person": PersonErasure(DIRECTORY, "ann"),
    "face": FaceErasure(DIRECTORY, "ann", learned_face_id(ANN), ANN),
    "directory": DirectoryErasure(DIRECTORY),
}


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Installation]:
    yield Installation(tmp_path / "data")
    structlog.reset_defaults()


@pytest.fixture
def there(tmp_path: Path) -> Installation:
    """Another data folder, which is empty."""
    return Installation(tmp_path / "there")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return tmp_path / "backups" / "saved"


@pytest.fixture
async def later(here: Installation, saved: Path, tmp_path: Path) -> Path:
    """A second backup of `here`: ann and ben are in the first one, and ann was erased in between."""
    later = tmp_path / "later"
    await here.learn("ann")
    await here.learn("ben")
    assert await here.run("backup", saved) == 0
    await here.erase("ann")
    assert await here.run("backup", later) == 0
    return later


def log_id(data: Path) -> str:
    [*_, last] = [it for it in read_records(data / "log.db", ERASURES) if it.key == IDENTITY_KEY]
    return LogIdentity.decode(last.value).id


def objects_in(saved: Path) -> set[str]:
    [root] = saved.glob("*/objects")
    return {key_of(path.relative_to(root)) for path in files_below(root)}


async def is_clean(installation: Installation) -> bool:
    return await installation.run("erase", "verify") == 0


async def test_a_restored_installation_is_what_it_was(here: Installation, there: Installation, saved: Path) -> None:
    await here.learn("ann")
    await here.accept("waiting")
    assert await here.run("backup", saved) == 0
    before = log_id(here.data)
    await here.process()
    await here.sink()
    await here.learn("ben")
    await here.erase("ann")
    assert await there.run("restore", "--yes", saved) == 0  # which knows of no erasure
    assert await there.people() == {"ann"}
    await there.process()
    await there.sink()
    assert await there.people() == {"ann", "waiting"}
    assert await there.objects() == pictures("ann", "waiting")
    await there.learn("ben")
    assert await there.people() == {"ann", "ben", "waiting"}
    assert log_id(there.data) != before
    assert await is_clean(there)


@pytest.mark.parametrize("what", ERASURES_OF_ANN)
async def test_what_the_replaced_folder_knows_to_be_erased_does_not_come_back(
    here: Installation, saved: Path, what: str
) -> None:
    await here.learn("ann")
    await here.learn("ben")
    await here.learn("ann", directory="other", image="ann elsewhere")
    await here.put_probe("photo")
    await here.put_answer(answer_with_name("ann", "recognize", "ann"))
    assert await here.run("backup", saved) == 0
    await here.send_erase(ERASURES_OF_ANN[what])
    await here.sink()
    assert await here.run("restore", "--yes", saved) == 0
    whole = what == "directory"
    assert await here.people() == (set() if whole else {"ben"})
    assert await here.people("other") == {"ann"}
    photo = original_key(image_id("photo"), "recognize")
    assert await here.objects() == pictures("ann elsewhere") | (set() if whole else {*pictures("ben"), photo})
    answer = (await here.answers())[ANN]
    assert '"ann"' not in answer.encode().decode() or answer.status == 409
    assert await is_clean(here)
    await here.sink()
    await here.learn("ann")
    assert await here.people() == ({"ann"} if whole else {"ann", "ben"})
    assert await is_clean(here)


async def test_an_erased_photo_does_not_come_back(here: Installation, saved: Path) -> None:
    await here.learn("ann")
    for name in ("photo", "other photo"):
        await here.put_probe(name)
    assert await here.run("backup", saved) == 0
    await here.send_erase(ImageErasure(DIRECTORY, image_id("photo")))
    await here.sink()
    assert await here.run("restore", "--yes", saved) == 0
    assert await here.objects() == {*pictures("ann"), original_key(image_id("other photo"), "recognize")}


async def test_an_erasure_that_nobody_has_carried_out_counts(here: Installation, saved: Path) -> None:
    await here.learn("ann")
    assert await here.run("backup", saved) == 0
    await here.send_erase(PersonErasure(DIRECTORY, "ann"))
    assert await here.run("restore", "--yes", saved) == 0
    assert await here.people() == set()


async def test_who_was_learned_again_is_restored_as_of_the_backup(here: Installation, saved: Path) -> None:
    await here.learn("before", "first of before")
    await here.erase("before")
    await here.learn("before", "second of before")
    await here.learn("after", "first of after")
    assert await here.run("backup", saved) == 0
    await here.erase("after")
    await here.learn("after", "second of after")
    assert await here.run("restore", "--yes", saved) == 0
    assert await here.people() == {"before"}
    assert await here.objects() == pictures("second of before")
    assert await is_clean(here)


@pytest.mark.parametrize("given", ["backup", "log.db", "data folder"])
async def test_erasures_are_taken_from_where_they_are_known(
    here: Installation, there: Installation, saved: Path, later: Path, given: str
) -> None:
    known = {"backup": later, "log.db": here.data / "log.db", "data folder": here.data}[given]
    assert await there.run("restore", "--yes", saved, "--erasures", known) == 0
    assert await there.people() == {"ben"}
    assert await is_clean(there)


async def test_images_that_were_under_way_are_erased_too(here: Installation, saved: Path) -> None:
    await here.accept("ann", "for the sink")
    await here.process()
    await here.accept("ann", "for a processor")
    await here.accept("ben")
    assert await here.run("backup", saved) == 0
    await here.process()
    await here.sink()
    await here.erase("ann")
    assert await here.run("restore", "--yes", saved) == 0
    assert await here.objects() == {original_key(image_id("ben"), "learn")}
    await here.accept("ann", "for a processor, again")
    await here.process()
    await here.sink()
    assert await here.people() == {"ann", "ben"}
    assert await here.objects() == pictures("for a processor, again", "ben")
    answers = await here.answers()
    assert [answers[image_id(it)].status for it in ("for the sink", "for a processor", "ben")] == [409, 409, 201]
    assert await is_clean(here)


@pytest.mark.parametrize("handled", [False, True])
async def test_erasures_of_the_backup_itself_hold(
    here: Installation, there: Installation, saved: Path, handled: bool
) -> None:
    await here.accept("ann", "for the sink")
    await here.process()
    await here.accept("ann", "for a processor")
    await here.send_erase(PersonErasure(DIRECTORY, "ann"))
    if handled:
        await here.sink()
    assert await here.run("backup", saved) == 0
    for installation in (there, here):
        assert await installation.run("restore", "--yes", saved) == 0
        await installation.process()
        await installation.sink()
        assert await installation.people() == set()
        assert await installation.objects() == set()
        assert await installation.run("backup", saved) == 0  # and in a backup of what was restored


@pytest.mark.parametrize("handled_since", [False, True])
async def test_a_command_in_the_log_of_the_backup_erases_only_what_came_before_it(
    here: Installation, saved: Path, handled_since: bool
) -> None:
    await here.learn("ann", "before")
    await here.send_erase(PersonErasure(DIRECTORY, "ann"))
    await here.accept("ann", "after")
    await here.process()
    assert await here.run("backup", saved) == 0
    if handled_since:
        await here.sink()
    assert await here.run("restore", "--yes", saved) == 0
    assert await here.people() == set()  # before anything serves
    assert await here.objects() == pictures("after")
    await here.sink()
    assert await here.people() == {"ann"}
    assert await here.objects() == pictures("after")
    assert await is_clean(here)


async def test_erasures_of_another_history_of_the_log_count(
    here: Installation, there: Installation, saved: Path, tmp_path: Path
) -> None:
    """After a restore, the same offsets mean something else than in the log that was backed up."""
    early, late = tmp_path / "early", tmp_path / "late"
    await here.learn("ann")
    await here.learn("ben")
    assert await here.run("backup", early) == 0
    for image in ("2", "3", "4", "5"):
        await here.learn("carl", image)
    await here.erase("ann", "carl")
    await here.learn("ann", "6")
    assert await here.run("backup", late) == 0
    assert await there.run("restore", "--yes", early) == 0
    await there.erase("ann")  # at a smaller offset than that of her erasure in the late backup
    assert await there.run("restore", "--yes", late) == 0
    assert await there.people() == {"ben"}
    assert await there.run("restore", "--yes", early) == 0
    assert await there.people() == {"ben"}
    assert await is_clean(there)


async def test_what_is_erased_while_the_backup_runs(
    here: Installation, there: Installation, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The backup has the files of its moment, and knows the erasures up to its end."""
    copy = backup.copy_objects

    def erase_first(root: Path, to: Path, advance: Progress) -> None:
        if root == here.data / "objects":
            asyncio.run(here.erase("ann"))
        copy(root, to, advance)

    await here.learn("ann")
    await here.learn("ben")
    monkeypatch.setattr(backup, "copy_objects", erase_first)
    assert await here.run("backup", saved) == 0
    assert await here.objects() == pictures("ben")
    assert objects_in(saved) == pictures("ann", "ben")
    assert await there.run("restore", "--yes", saved) == 0
    assert await there.people() == {"ben"}
    assert await there.objects() == pictures("ben")


async def test_pictures_of_images_that_the_log_does_not_have_are_not_restored(
    here: Installation, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = backup.copy_objects

    def learn_first(root: Path, to: Path, advance: Progress) -> None:
        if root == here.data / "objects":
            asyncio.run(here.learn("later"))
        copy(root, to, advance)

    await here.learn("ann")
    async with here.opened() as (stores, _):
        failed = image_received("failed", "learn")
        await stores.objects.put(original_key(failed.image_id, "learn"), b"")
        await stores.log.append([dead_letter_of(failed)])
    monkeypatch.setattr(backup, "copy_objects", learn_first)
    assert await here.run("backup", saved) == 0
    assert pictures("later") < objects_in(saved)
    assert await here.run("restore", "--yes", saved) == 0
    assert await here.people() == {"ann"}
    assert await here.objects() == {*pictures("ann"), original_key(failed.image_id, "learn")}


async def test_a_log_that_cannot_be_read_is_not_replaced_silently(
    here: Installation, saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await here.learn("ann")
    assert await here.run("backup", saved) == 0
    (here.data / "log.db").write_bytes(b"damaged" * 1_000)
    assert await here.run("restore", "--yes", saved) == 2
    assert "log.db is damaged, so the erasures in it cannot be read: move the file away" in capsys.readouterr().err


async def test_a_missing_log_is_not_replaced_silently(
    here: Installation, saved: Path, later: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here.data / "log.db").unlink()
    assert await here.run("restore", saved) == 2
    assert "restore replaces the people and pictures" in capsys.readouterr().err
    assert await here.run("restore", "--yes", saved) == 2
    assert "log.db is missing, which knows who was erased after the backup" in capsys.readouterr().err
    assert await here.run("restore", "--yes", saved, "--erasures", later) == 0
    assert f", except those whose erasure {later} knows: send" in capsys.readouterr().err
    assert await here.people() == {"ben"}


@pytest.mark.parametrize("given", [False, True])
async def test_a_restore_says_when_nothing_is_known_of_later_erasures(
    here: Installation, there: Installation, saved: Path, given: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where the backup itself is all that is known."""
    await here.learn("ann")
    assert await here.run("backup", saved) == 0
    await here.erase("ann")
    known: list[str | Path] = ["--erasures", saved] if given else []
    assert await there.run("restore", saved, *known) == 0
    assert "people who were erased after" in capsys.readouterr().err
    assert await there.people() == {"ann"}
    assert await there.run("restore", "--yes", saved, "--erasures", here.data / "log.db") == 0
    said = capsys.readouterr().err
    assert "faces that were erased since and are left out: 1" in said
    assert "people who were erased after" not in said
    assert await there.people() == set()


async def test_what_a_killed_restore_has_copied_is_deleted(here: Installation, saved: Path) -> None:
    await here.learn("ann")
    assert await here.run("backup", saved) == 0
    settings = Settings(data=here.data)
    target = embedded_files(settings)
    stage(saved, read_backup(saved), target)
    (here.data / UNFINISHED_RESTORE).touch()
    discard_staged(settings)  # the restore will be completed
    assert staged_files(target).log.exists()
    (here.data / UNFINISHED_RESTORE).unlink()
    discard_staged(settings)
    assert not list(here.data.rglob("*.restored*"))
    assert await here.people() == {"ann"}
    assert await here.objects() == pictures("ann")


@pytest.mark.parametrize("content", [b"", b"damaged\nDATA"], ids=["empty", "no metadata"])
async def test_a_damaged_picture_keeps_nothing_from_being_erased_or_restored(
    here: Installation, there: Installation, saved: Path, content: bytes
) -> None:
    for name in ("ann", "ben"):
        await here.learn(name)
    (here.data / "objects" / path_of(original_key(ANN, "learn"))).write_bytes(content)
    assert await is_clean(here)
    assert await here.run("backup", saved) == 0
    assert await there.run("restore", saved) == 0
    assert await there.people() == {"ann", "ben"}
    await here.erase("ann")
    assert await here.people() == {"ben"}
    assert await here.objects() == pictures("ben")
    assert await is_clean(here)


async def test_after_a_restore_that_was_killed_the_next_one_still_says_what_it_does_not_know(
    here: Installation, there: Installation, saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await here.learn("ann")
    assert await here.run("backup", saved) == 0
    stage(saved, read_backup(saved), embedded_files(Settings(data=there.data)))
    (there.data / UNFINISHED_RESTORE).touch()
    assert await there.run("restore", "--yes", saved) == 0
    assert "people who were erased after" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["empty", "vectors.db", "missing", "n" * 300])
async def test_a_place_that_knows_no_erasures_is_refused(
    here: Installation, saved: Path, tmp_path: Path, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    await here.learn("ann")
    assert await here.run("backup", saved) == 0
    (tmp_path / "empty").touch()
    given = here.data / place if place == "vectors.db" else tmp_path / place
    assert await here.run("restore", "--yes", saved, "--erasures", given) == 2
    assert str(given) in capsys.readouterr().err


async def test_a_data_folder_in_the_backup_is_refused(
    here: Installation, saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await here.learn("ann")
    assert await here.run("backup", saved) == 0
    for data in (saved, saved / "data"):
        assert await Installation(data).run("restore", "--yes", saved) == 2
        assert "is in the backup" in capsys.readouterr().err

"""Versions on disk: whole or absent, refused for any change, undone step by step."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bot.conversation import BASE_VERSION
from bot.errors import AdapterError, NotFound
from bot.policy.adapters import MANIFEST, AdapterStore
from tests.version_folder import FILES, SECRET, make_manifest, publish_bytes

NUM_CRASHES = int(os.environ.get("REJOINDER_CRASHES", "5"))
ROOT = Path(__file__).parents[2]


@pytest.fixture
def store(tmp_path: Path) -> AdapterStore:
    """An empty store whose clock counts its own calls."""
    ticks = iter(range(1_000_000))
    return AdapterStore(tmp_path / "adapters", SECRET, clock=lambda: float(next(ticks)))


def serve(store: AdapterStore, count: int) -> list[str]:
    """Publish and promote this many versions, one after the other."""
    versions = [publish_bytes(store) for _ in range(count)]
    for version in versions:
        store.set_champion(version, "gate passed", "learner")
    return versions


# --- what is refused --------------------------------------------------------------------------------------------------


def flip_byte(name: str) -> Callable[[Path], None]:
    """Change one bit in the middle of a file."""

    def damage(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)

    return damage


def truncate(folder: Path) -> None:
    path = folder / FILES[0]
    path.write_bytes(path.read_bytes()[:-1])


def empty_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_text("")


def link_file(folder: Path) -> None:
    path = folder / FILES[0]
    elsewhere = folder.parent / "elsewhere.safetensors"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


def link_folder(folder: Path) -> None:
    elsewhere = folder.parent / "elsewhere"
    folder.rename(elsewhere)
    folder.symlink_to(elsewhere)


def resign_with(change: Callable[[dict[str, object]], object], secret: bytes = SECRET) -> Callable[[Path], None]:
    """Edit the manifest's body and sign it again."""

    def damage(folder: Path) -> None:
        body = json.loads((folder / MANIFEST).read_text())["manifest"]
        change(body)
        signature = AdapterStore(folder.parent, secret)._sign(body)
        (folder / MANIFEST).write_text(json.dumps({"manifest": body, "signature": signature}))

    return damage


def edit_unsigned(folder: Path) -> None:
    sealed = json.loads((folder / MANIFEST).read_text())
    sealed["manifest"]["gate"] = {"passed": "always"}
    (folder / MANIFEST).write_text(json.dumps(sealed))


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a flipped bit in the weights": (flip_byte(FILES[0]), "SHA-256 differs"),
    "a flipped bit in the config": (flip_byte(FILES[1]), "SHA-256 differs"),
    "a flipped bit in the value head": (flip_byte(FILES[2]), "SHA-256 differs"),
    "a flipped bit in the manifest": (flip_byte(MANIFEST), "signature|readable manifest"),
    "a truncated file": (truncate, "SHA-256 differs"),
    "an empty manifest": (empty_manifest, "readable manifest"),
    "a missing file": (lambda folder: (folder / FILES[2]).unlink(), "odd one: value.safetensors"),
    "an extra file": (lambda folder: (folder / "encoder" / "notes.txt").write_text("x"), "odd one: encoder/notes.txt"),
    "a pickle": (
        lambda folder: (folder / "encoder" / "adapter_model.bin").write_bytes(b"x"),
        "odd one: encoder/adapter",
    ),
    "a file that is a link": (link_file, "got a link"),
    "a folder that is a link": (link_folder, "got a link"),
    "another home's signature": (resign_with(lambda body: None, b"t" * 32), "signature does not hold"),
    "an edit without a signature": (edit_unsigned, "signature does not hold"),
    "another version's manifest": (resign_with(lambda body: body.update(version="v000009")), "that of v000009"),
    "another release's manifest": (resign_with(lambda body: body.pop("gate")), "as this release writes them"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_version_that_was_touched_is_refused(store: AdapterStore, damage: str) -> None:
    """By one line, and the pointer does not move; the same version untouched passes."""
    version = publish_bytes(store)
    assert store.verify(version).version == version
    touch, line = DAMAGES[damage]
    touch(store.folder(version))
    with pytest.raises(AdapterError, match=line) as refused:
        store.set_champion(version, "gate passed", "learner")
    assert "\n" not in str(refused.value)
    assert store.champion().version == BASE_VERSION


def test_signing_again_with_the_home_s_own_secret_is_the_control(store: AdapterStore) -> None:
    """The helper that makes wrong manifests makes right ones too."""
    version = publish_bytes(store)
    resign_with(lambda body: None)(store.folder(version))
    assert store.verify(version).version == version


@pytest.mark.parametrize("name", ["adapter_model.bin", "chat_template.jinja", "encoder/run.py"])
def test_other_files_are_refused_before_they_are_sealed(store: AdapterStore, name: str) -> None:
    """A pickle or a template would be code."""
    staged = store.stage()
    (staged / "encoder").mkdir()
    (staged / name).write_text("x")
    with pytest.raises(AdapterError, match=name):
        store.publish(staged, make_manifest())
    assert store.versions() == []


@pytest.mark.parametrize("name", ["v000009", "../v000001", "v000001/", "v1", "v²", "", "champion.json"])
def test_an_unknown_version_is_not_found(store: AdapterStore, name: str) -> None:
    """Nor does a name lead out of the folder."""
    publish_bytes(store)
    with pytest.raises(NotFound, match="expected one of v000001"):
        store.verify(name)


def test_a_published_version_is_never_overwritten(store: AdapterStore) -> None:
    """Versions are immutable."""
    before = store.verify(publish_bytes(store, "v000001")).files
    with pytest.raises(OSError, match="not empty"):
        publish_bytes(store, "v000001", num_bytes=65)
    assert store.verify("v000001").files == before


# --- looking without hashing ------------------------------------------------------------------------------------------


def rewrite(path: Path, content: bytes, *, later_ns: int) -> None:
    """Other bytes of the same size, with a time of modification this much later."""
    stat = path.stat()
    assert len(content) == stat.st_size
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + later_ns))


@pytest.mark.parametrize("name", FILES)
def test_a_changed_file_is_noticed_without_hashing_the_others_again(store: AdapterStore, name: str) -> None:
    """By its time alone; and put back, the version is whole again."""
    version = publish_bytes(store)
    assert store.inspect(version) == store.verify(version)
    path = store.folder(version) / name
    rewrite(path, b"y" * 64, later_ns=1)
    for _ in range(2):
        with pytest.raises(AdapterError, match=f"{name}: SHA-256 differs"):
            store.inspect(version)
    rewrite(path, b"x" * 64, later_ns=1)
    assert store.inspect(version).version == version


def test_files_whose_time_and_size_stayed_are_not_read_again(store: AdapterStore) -> None:
    """The control: it is the time that was noticed. What is to be loaded is hashed nevertheless."""
    version = publish_bytes(store)
    store.inspect(version)
    rewrite(store.folder(version) / FILES[0], b"y" * 64, later_ns=0)
    assert store.inspect(version).version == version
    with pytest.raises(AdapterError, match="SHA-256 differs"):
        store.verify(version)
    with pytest.raises(AdapterError, match="SHA-256 differs"):
        store.set_champion(version, "by hand", "operator")


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_damage_shows_after_the_version_was_seen_whole(store: AdapterStore, damage: str) -> None:
    """Also files that came, went, or became links."""
    version = publish_bytes(store)
    store.inspect(version)
    touch, line = DAMAGES[damage]
    touch(store.folder(version))
    manifest = store.folder(version) / MANIFEST
    for path in (
        store.folder(version) / FILES[0],
        store.folder(version) / FILES[1],
        store.folder(version) / FILES[2],
        manifest,
    ):
        if path.exists():
            os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))  # Within one tick of the clock times are equal.
    with pytest.raises(AdapterError, match=line):
        store.inspect(version)


# --- pruning ----------------------------------------------------------------------------------------------------------


def with_weights(store: AdapterStore) -> list[str]:
    return [version for version in store.versions() if not store.is_pruned(version)]


def test_old_versions_keep_their_manifest_only(store: AdapterStore) -> None:
    """Lineage stays readable; the weights are refused by a line that says why; numbers are not used again."""
    serve(store, 6)
    manifests = [store.inspect(version) for version in store.versions()]
    assert store.prune(keep=2) == ["v000001", "v000002", "v000003"]
    assert with_weights(store) == ["v000004", "v000005", "v000006"]  # two newest, and two to go back to
    assert [store.inspect(version) for version in store.versions()] == manifests
    assert [path.name for path in store.folder("v000001").iterdir()] == [MANIFEST]
    for use in (store.verify, lambda version: store.promote(version, "by hand")):
        with pytest.raises(AdapterError, match="v000002: its weights were removed to save space"):
            use("v000002")
    assert store.champion().version == "v000006"
    assert store.next_version() == "v000007"
    assert store.prune(keep=2) == []


def test_a_rollback_finds_as_many_versions_as_are_kept(store: AdapterStore) -> None:
    """Also where many candidates in between never served; the control is one step further."""
    versions = serve(store, 4)
    for _ in range(5):
        publish_bytes(store)
    assert store.prune(keep=2) == ["v000001", "v000005", "v000006", "v000007"]
    assert [store.rollback().version for _ in range(2)] == [versions[2], versions[1]]
    with pytest.raises(AdapterError, match="v000001: its weights were removed"):
        store.rollback()
    assert store.champion().version == versions[1]


def test_the_champion_and_what_a_person_chose_are_never_pruned(store: AdapterStore) -> None:
    """However old they are; nothing at all is while learning is frozen."""
    serve(store, 4)
    store.promote("v000001", "read by hand")
    store.set_champion("v000004", "gate passed", "learner")
    store.rollback("v000002")
    assert store.prune(keep=1) == []
    store.unfreeze("go on")
    assert store.prune(keep=1) == ["v000003"]
    assert with_weights(store) == ["v000001", "v000002", "v000004"]
    assert store.champion().version == "v000002"


def test_pruning_that_was_interrupted_is_finished_the_next_time(store: AdapterStore) -> None:
    """Half a version is refused as damaged meanwhile."""
    serve(store, 4)
    (store.folder("v000001") / "value.safetensors").unlink()
    with pytest.raises(AdapterError, match=r"odd one: value\.safetensors"):
        store.inspect("v000001")
    assert store.prune(keep=1) == ["v000001", "v000002"]
    assert store.inspect("v000001").version == "v000001"


# --- crashes ----------------------------------------------------------------------------------------------------------

CHILD = """
import sys
from pathlib import Path
from tests.version_folder import SECRET, publish_bytes
from bot.policy.adapters import AdapterStore
store = AdapterStore(Path(sys.argv[1]), SECRET)
print("ready", flush=True)
while True:
    store.set_champion(publish_bytes(store, num_bytes=100000), "gate passed", "learner")
    print("published", flush=True)
"""


def test_a_publisher_killed_at_any_point_leaves_a_whole_state(tmp_path: Path) -> None:
    """Whatever has a version's name verifies, the champion is one of them, and publishing goes on."""
    root, draw, acknowledged = tmp_path / "adapters", random.Random(0), 0
    for _ in range(NUM_CRASHES):
        command = [sys.executable, "-c", CHILD, str(root)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, text=True) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            for _ in range(draw.randrange(1, 5)):
                child.stdout.readline()
                acknowledged += 1
            child.send_signal(signal.SIGKILL)
        store = AdapterStore(root, SECRET)
        versions = store.versions()
        assert [store.verify(version).version for version in versions] == versions
        assert len(versions) >= acknowledged
        store.verify(store.champion().version)
        assert int(store.champion().version[1:]) >= acknowledged


@pytest.mark.parametrize("step", range(4))
def test_a_prefix_of_publishing_changes_nothing(store: AdapterStore, step: int) -> None:
    """Staged, half written, with its manifest, with a stray temporary pointer: none of it is a version."""
    serve(store, 1)
    staged = store.stage()
    if step >= 1:
        (staged / "encoder").mkdir()
        (staged / "value.safetensors").write_bytes(b"half")
    if step >= 2:
        (staged / MANIFEST).write_text("{}")
    if step >= 3:
        (store.root / ".champion.json.1.tmp").write_text("{")
    assert (store.versions(), store.champion().version, store.next_version()) == (["v000001"], "v000001", "v000002")
    store.discard_unreferenced(keep="v000001")
    assert not staged.exists()
    assert store.verify("v000001").version == "v000001"


def test_versions_published_but_never_committed_are_dropped(store: AdapterStore) -> None:
    """Those a pointer ever named stay, also after a rollback."""
    serve(store, 2)
    store.rollback()
    publish_bytes(store)
    store.discard_unreferenced(keep="v000001")
    assert store.versions() == ["v000001", "v000002"]


# --- rollback and freezing --------------------------------------------------------------------------------------------


def test_rolling_back_twice_goes_back_twice(store: AdapterStore) -> None:
    """And in the end to the fresh install, then no further."""
    serve(store, 3)
    assert [store.rollback().version for _ in range(3)] == ["v000002", "v000001", BASE_VERSION]
    with pytest.raises(NotFound, match="fresh install"):
        store.rollback()


def test_a_version_undone_is_passed_over_by_later_rollbacks(store: AdapterStore) -> None:
    """v1, v2, undo, v3, undo: v1 serves, not v2."""
    serve(store, 2)
    store.rollback()
    serve(store, 1)
    assert store.rollback().version == "v000001"


def test_a_rollback_freezes_learning_until_it_is_unfrozen(store: AdapterStore) -> None:
    """Or the same rewards would publish the same thing again within a minute; a restart changes nothing."""
    serve(store, 2)
    store.rollback(reason="rude")
    assert AdapterStore(store.root, SECRET).frozen
    store.unfreeze("fixed")
    assert not store.frozen
    assert [entry["event"] for entry in store.history()] == ["champion"] * 2 + ["freeze", "champion", "unfreeze"]


def test_a_rollback_to_a_damaged_version_changes_nothing(store: AdapterStore) -> None:
    """Neither the pointer nor the freeze marker."""
    serve(store, 2)
    truncate(store.folder("v000001"))
    with pytest.raises(AdapterError):
        store.rollback()
    assert (store.champion().version, store.frozen) == ("v000002", False)
    assert store.rollback(BASE_VERSION).version == BASE_VERSION


def test_a_pointer_change_that_crashed_before_it_counted_is_not_rolled_back_to(store: AdapterStore) -> None:
    """The history is written first: v3 is in it, yet v2 serves; undoing must leave v2."""
    serve(store, 2)
    store._log("champion", publish_bytes(store), "gate passed", "learner")
    assert store.rollback().version == "v000001"


def test_the_history_survives_a_torn_last_line(store: AdapterStore) -> None:
    """And so does the line written after it."""
    serve(store, 2)
    with (store.root / "history.jsonl").open("a") as stream:
        stream.write('{"at": 5, "event": "cham')
    serve(store, 1)
    assert [entry["version"] for entry in store.history()] == ["v000001", "v000002", "v000003"]
    assert store.rollback().version == "v000002"


def test_a_version_number_is_never_used_again(store: AdapterStore) -> None:
    """Rows and backups name versions: one that served keeps its number also when its folder is gone."""
    serve(store, 3)
    store.rollback("v000001")
    for name in (*FILES, MANIFEST):
        (store.root / "v000003" / name).unlink()
    assert store.next_version() == "v000004"
    (store.root / "v12-backup").mkdir()
    (store.root / "v12-backup" / MANIFEST).write_text("{}")
    assert store.next_version() == "v000004"


def test_a_damaged_pointer_is_one_clear_line(store: AdapterStore) -> None:
    """Guessing could serve what an operator had rolled back."""
    (store.root / "champion.json").write_text("{")
    with pytest.raises(AdapterError, match="expected a pointer"):
        store.champion()

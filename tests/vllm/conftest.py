"""A real vLLM server with SmolLM2 in bf16, for tests marked `vllm`: skipped unless `make test-vllm` says where vLLM is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vllm.rack import Rack


@pytest.fixture(scope="session")
def rack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rack]:
    """Up; its log is kept with the test session's files."""
    python = os.environ.get("VLLM_PYTHON")
    if not python:
        pytest.skip("needs an environment with vLLM (1.8 GB): run `make test-vllm`")
    model: Path = request.getfixturevalue("causal_folder")  # Not before: nothing is fetched for tests that are skipped.
    built = Rack(Path(python), model, tmp_path_factory.mktemp("vllm") / "server.log")
    built.start()
    yield built
    built.close()

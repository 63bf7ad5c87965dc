"""The corpus of Pipecat's files, and what a wrong file is told."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from runner.errors import UsageError

CORPUS = Path(__file__).parent / "corpus"


def corpus_in(folder: Path) -> Path:
    """Return a copy of the corpus, with its recordings."""
    shutil.copytree(CORPUS, folder)
    for name in ("hello.wav", "shared/france.wav", "shared/germany.wav"):
        soundfile.write(folder / name, np.zeros(800, dtype=np.float32), 8_000)
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return corpus_in(tmp_path_factory.mktemp("files") / "corpus")


def refused(read: Callable[[], object], where: object = "") -> str:
    """Return what is told where something wrong is read: one line that begins with its place."""
    with pytest.raises(UsageError) as caught:
        read()
    told = str(caught.value)
    assert told.startswith(str(where))
    assert len(told.splitlines()) == 1
    return told.removeprefix(str(where))

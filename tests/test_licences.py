"""What images hold is in docs/licences.md: packages, compiled libraries and models."""

import re
import sys
from importlib.metadata import distribution

import pytest

from deploy.licences import DOCUMENT, IMAGES, closure, libraries, licence, listed, table

# The images' Python: others are given other versions, which may say other things of themselves.
pytestmark = pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the images have Python 3.11")

PACKAGES = sorted(set().union(*(closure(*extras) for extras in IMAGES.values())))
MODEL = re.compile(r".*\.(onnx|bin|pt|pth|safetensors|tflite)")
SMALLEST_MODEL_BYTES = 100_000


def test_every_package_is_listed_with_the_licence_it_says() -> None:
    assert table() in DOCUMENT.read_text(), "run: .venv/bin/python deploy/licences.py"
    assert not [name for name in PACKAGES if not licence(name)]


def test_every_compiled_library_is_listed() -> None:
    found: dict[str, set[str]] = {}
    for package, *cells in listed():
        if len(cells) == 2:
            found.setdefault(package, set()).update(re.findall(r"`(\S+)`", cells[0]))
    brought = {name: libraries(name) for name in PACKAGES}
    assert brought["av"] > {"x264", "avcodec"}
    missing = {name: sorted(there - found.get(name, set())) for name, there in brought.items()}
    assert {name: there for name, there in missing.items() if there} == {}


def test_every_model_is_listed() -> None:
    models = [
        path
        for name in PACKAGES
        for path in distribution(name).files or ()
        if MODEL.fullmatch(path.name) and path.locate().stat().st_size > SMALLEST_MODEL_BYTES
    ]
    assert len(models) >= 6
    text = DOCUMENT.read_text()
    assert [str(path) for path in models if f"`{path}`" not in text and f"`{path.name}`" not in text] == []


def test_copyleft_is_pointed_out() -> None:
    text = DOCUMENT.read_text()
    asking = text.partition("## What asks something of you")[2].partition("\n## ")[0]
    copyleft = [name for name in PACKAGES if re.search("GPL|MPL", licence(name))]
    assert copyleft and [name for name in copyleft if f"`{name}`" not in asking] == []

"""Which extra brings a missing package."""

from __future__ import annotations

import pytest

from shared import extras

REQUIRED = [
    "rich>=14",
    'pyarrow>=21; extra == "files"',
    'jgo>=3.2; extra == "local"',
    'pyarrow>=21; extra == "local"',
    'scikit-learn>=1.8; extra == "train"',
    'torch>=2.10; extra == "train"',
    'pyarrow>=21; extra == "train"',
]


@pytest.mark.parametrize(
    ("module", "extra"),
    [
        ("torch", "train"),
        ("sklearn.preprocessing", "train"),
        ("jgo", "local"),
        ("pyarrow", "files"),
    ],
)
def test_the_smallest_extra_is_named(
    module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "requires", lambda _: REQUIRED)
    told = extras.how_to_install(module)
    assert told is not None
    assert told.endswith(f"pip install 'candlecast[{extra}]'")


@pytest.mark.parametrize("module", ["rich", "shared.nothing", None])
def test_of_others_nothing_is_said(module: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "requires", lambda _: REQUIRED)
    assert extras.how_to_install(module) is None

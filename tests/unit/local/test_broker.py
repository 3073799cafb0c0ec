"""What can be told of the broker without starting it."""

from __future__ import annotations

import base64
import uuid

from hypothesis import given
from hypothesis import strategies as st

from local.broker import cluster_id


@given(st.uuids())
def test_no_cluster_id_looks_like_a_flag(number: uuid.UUID) -> None:
    made = cluster_id(number)
    assert not made.startswith("-")
    assert len(base64.urlsafe_b64decode(made + "==")) == 16

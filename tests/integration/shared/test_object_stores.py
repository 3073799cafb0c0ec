"""The model store on stand-ins of S3 and Google Cloud Storage, through their real clients."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from importlib.util import find_spec

import pytest

from shared.forecaster import OnnxForecaster
from shared.model_store import Decision, ModelStore, StoreError
from shared.objects import open_objects
from tests.integration.shared.test_model_store import PROMOTE, patterns, start
from tests.object_stores import BUCKET, S3, Bucket, Gcs, Server, environment
from tests.recipes import Recipe
from trainer.lease import Lease

pytestmark = pytest.mark.integration

WRITERS = 3
PROMOTIONS = 6
SERVICES = {"s3": (S3, "s3fs"), "gs": (Gcs, "gcsfs")}


@pytest.fixture(params=list(SERVICES))
def protocol(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    client = SERVICES[name][1]
    if not find_spec(client):  # not imported: it reads its environment once
        pytest.skip(f"{client} is not installed")
    return name


@pytest.fixture
def server(protocol: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    service, _ = SERVICES[protocol]
    with Server(service) as running:
        for name, value in environment(service, running.address).items():
            monkeypatch.setenv(name, value)
        yield running


@pytest.fixture
def bucket(server: Server) -> Bucket:
    return server.bucket


@pytest.fixture
def url(protocol: str, server: Server) -> str:  # noqa: ARG001 - it is up
    return f"{protocol}://{BUCKET}/models"


def test_a_store_keeps_promotes_goes_back_and_collects(url: str) -> None:
    store = ModelStore(url)
    assert store.champions().champions == ()
    digests = [store.put(Recipe(drift=drift).contents()) for drift in (0.0, 0.01)]
    for digest in digests:
        store.promote(digest, "5m", decision=Decision("test"))
    OnnxForecaster(store.load(digests[1]))
    again = ModelStore(url)
    assert [held.digest for held in again.bundles()] == sorted(digests)
    champion = again.rollback("5m").at("5m")
    assert champion is not None
    assert champion.choice.bundle == digests[0]
    assert {gone.digest for gone in again.collect(0, at_ms=10**14).removed} == {digests[1]}
    assert [held.digest for held in store.bundles()] == [digests[0]]


def test_of_two_writers_of_one_name_exactly_one_succeeds(url: str, bucket: Bucket) -> None:
    first, second = open_objects(url), open_objects(url)
    assert first.create("champions/0000000001.json", b"first")
    assert not second.create("champions/0000000001.json", b"second")
    assert second.read("champions/0000000001.json", 100) == b"first"
    assert bucket.refused[412] == 1  # by the service, not by a look beforehand


@pytest.mark.parametrize(
    ("protocol", "conflicts", "lost"),
    [("s3", 0, 0), ("s3", 4, 0), ("s3", 0, 4), ("gs", 0, 0), ("gs", 0, 4)],
    indirect=["protocol"],
)
def test_writers_at_once_lose_no_promotion(
    url: str, bucket: Bucket, conflicts: int, lost: int
) -> None:
    """Nor where the service wants a write repeated, or an answer is lost and the client repeats."""
    store = ModelStore(url)
    digest = store.put(Recipe().contents())
    bucket.begin = threading.Barrier(WRITERS)  # all write the first generation
    bucket.conflicts, bucket.lost = conflicts, lost
    writers = [start(PROMOTE, url, digest, f"w{n}", PROMOTIONS) for n in range(WRITERS)]
    for writer in writers:
        _, complaint = writer.communicate(timeout=120)
        assert writer.returncode == 0, complaint
    assert store.champions().generation == WRITERS * PROMOTIONS
    assert len(patterns(store)) == WRITERS * PROMOTIONS
    assert bucket.refused[412] >= WRITERS - 1
    assert bool(bucket.refused[409]) == bool(conflicts)


def test_a_lease_whose_answer_is_lost_is_held(url: str, bucket: Bucket) -> None:
    """The client repeats the write, and meets its own."""
    bucket.lost = 1
    first, second = Lease(open_objects(url)), Lease(open_objects(url))
    second._me = "second"
    with first.held() as holder:
        assert holder == ""
        with second.held() as other:
            assert other == first._me


def test_a_service_that_is_away_is_a_fault_of_the_store(url: str, bucket: Bucket) -> None:
    store = ModelStore(url)
    store.put(Recipe().contents())
    bucket.is_away = True
    with pytest.raises(StoreError, match=f"{url}.* cannot be listed"):
        store.champions()
    bucket.is_away = False
    assert store.champions().champions == ()

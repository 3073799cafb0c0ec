"""The Helm chart by Helm's own library: its values, what it renders, and Kubernetes' schemas."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

import helm_python
import pytest
import yaml
from kubernetes_validate.utils import ValidationError, validate

from api.settings import ApiSettings
from producer.settings import ProducerSettings
from shared.settings import ServiceSettings, variable
from shared.topic_tool import TopicsSettings
from stream_app.settings import WorkerSettings
from trainer.watch_settings import WatchSettings

pytestmark = pytest.mark.integration

ROOT: Final = Path(__file__).parents[2]
CHART: Final = ROOT / "deploy" / "helm" / "candlecast"
GOLDEN: Final = ROOT / "tests" / "golden" / "helm"
SETS: Final = sorted(path.name.partition(".")[0] for path in GOLDEN.glob("*.values.yaml"))

KUBERNETES: Final = "1.33"
NOT_KUBERNETES_OWN: Final = {"PodMonitor", "ServiceMonitor", "PrometheusRule", "ScaledObject"}
OURS: Final[dict[str, type[ServiceSettings]]] = {
    "topics": TopicsSettings,
    "producer": ProducerSettings,
    "worker": WorkerSettings,
    "api": ApiSettings,
    "trainer": WatchSettings,
}


def values(name: str) -> dict[str, Any]:
    given: dict[str, Any] = yaml.safe_load((GOLDEN / f"{name}.values.yaml").read_text()) or {}
    return given


def rendered(given: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the objects of the chart, in the order of their files."""
    with helm_python.Chart.load(str(CHART)) as chart:
        files = chart.render(given, name="prices", namespace="markets")
    texts = [text for path, text in sorted(files.items()) if path.endswith(".yaml")]
    return [made for text in texts for made in yaml.safe_load_all(text) if made]


def containers(objects: list[dict[str, Any]]) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Return the pod and the container of each service."""
    pods = [made["spec"]["template"]["spec"] for made in objects if "template" in made["spec"]]
    return {pod["containers"][0]["name"]: (pod, pod["containers"][0]) for pod in pods}


def with_specs(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [made for made in objects if "spec" in made]


@pytest.mark.parametrize("name", SETS)
def test_a_set_of_values_renders_as_before(name: str) -> None:
    """CANDLECAST_GOLDEN=write renews the files; look at the difference before you commit it."""
    objects = rendered(values(name))
    for made in objects:
        if made["kind"] == "ConfigMap":
            made["data"] = sorted(made["data"])
        if made["kind"] == "PrometheusRule":
            made["spec"] = "deploy/rules.yml"
    text = yaml.safe_dump_all(objects, sort_keys=False, width=100)
    path = GOLDEN / f"{name}.yaml"
    if os.environ.get("CANDLECAST_GOLDEN") == "write":
        path.write_text(text)
    assert path.read_text() == text


@pytest.mark.parametrize("name", SETS)
def test_what_is_rendered_obeys_kubernetes_schemas(name: str) -> None:
    for made in rendered(values(name)):
        if made["kind"] not in NOT_KUBERNETES_OWN:
            validate(made, KUBERNETES, strict=True)


def test_a_wrong_object_is_refused_by_the_schemas() -> None:
    [first, *_] = [made for made in rendered({}) if made["kind"] == "Deployment"]
    first["spec"]["replica"] = 3
    with pytest.raises(ValidationError):
        validate(first, KUBERNETES, strict=True)


@pytest.mark.parametrize("name", SETS)
def test_every_pod_is_locked_and_its_variables_are_settings(name: str) -> None:
    for service, (pod, container) in containers(with_specs(rendered(values(name)))).items():
        assert pod["securityContext"]["runAsNonRoot"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert "memory" in container["resources"]["limits"]
        known = {variable(OURS[service], field) for field in OURS[service].model_fields}
        given = [entry["name"] for entry in container["env"]]
        assert set(given) <= known | {"OTEL_EXPORTER_OTLP_ENDPOINT"}
        assert len(given) == len(set(given))
        assert not any("PASSWORD" in name and not name.endswith("_FILE") for name in given)
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}


def test_secrets_are_referred_to_and_each_service_has_its_own_user() -> None:
    pods = containers(with_specs(rendered(values("secured"))))
    users = {}
    for service, (pod, container) in pods.items():
        variables = {entry["name"]: entry["value"] for entry in container["env"]}
        secret = next(volume["secret"] for volume in pod["volumes"] if volume["name"] == "kafka")
        users[service] = (variables["CANDLECAST_SASL_USERNAME"], secret["secretName"])
    assert users == {
        "topics": ("admin", "kafka-admin"),
        "producer": ("candlecast", "kafka-user"),
        "worker": ("worker", "kafka-worker"),
        "api": ("candlecast", "kafka-user"),
        "trainer": ("candlecast", "kafka-user"),
    }


def test_a_user_that_is_missing_is_named() -> None:
    with pytest.raises(helm_python.HelmError, match=r"kafka\.users\..* SASL_SSL needs a user"):
        rendered({"kafka": {"securityProtocol": "SASL_SSL"}})


def test_a_trainer_without_a_model_store_is_refused() -> None:
    with pytest.raises(helm_python.HelmError, match=r"models\.store: trainer\.enabled needs"):
        rendered({"trainer": {"enabled": True}})


def test_the_rules_in_the_chart_are_those_that_are_tested() -> None:
    [rule] = [made for made in rendered(values("secured")) if made["kind"] == "PrometheusRule"]
    assert rule["spec"] == yaml.safe_load((ROOT / "deploy" / "rules.yml").read_text())


def test_the_linter_finds_nothing_but_that_there_is_no_icon() -> None:
    found = helm_python.lint(str(CHART))
    assert [message["error"] for message in found["messages"]] == ["icon is recommended"]

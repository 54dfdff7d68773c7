"""The chart and the manifest made from it, against Kubernetes' schemas and against the agent."""

from __future__ import annotations

import base64
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from agent import __version__
from agent.config import Settings, load_settings
from agent.policy.document.load import load_in_place
from tests.packaging.chart import CHART, ROOT, Object, container_of, one, pod_of, render, run

MANIFEST = ROOT / "packaging" / "kubernetes" / "licet.yaml"
VERSIONS = ("1.25.0", "1.30.0", "1.37.0")
"""The chart's oldest, the first with an appArmorProfile field, the newest that there is a schema for."""
OPERATORS_OWN = {
    "PodMonitor": "podMetricsEndpoints",
    "ServiceMonitor": "endpoints",
    "PrometheusRule": "groups",
}
"""Kinds of the Prometheus operator, for which there is no schema here, with the list in each."""
EVERYTHING: Object = {
    "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}, "scrapeTimeout": "10s"},
    "serviceMonitor": {
        "enabled": True,
        "namespace": "monitoring",
        "relabelings": [{"action": "labeldrop", "regex": "pod"}],
        "metricRelabelings": [{"action": "drop", "regex": "licet_edges.*", "sourceLabels": ["__name__"]}],
    },
    "prometheusRule": {"enabled": True, "namespace": "monitoring"},
    "grafanaDashboard": {"enabled": True},
    "networkPolicy": {"enabled": True, "from": [{"namespaceSelector": {}}]},
    "imagePullSecrets": [{"name": "registry"}],
    "image": {"registry": "registry.example.com:5000", "digest": "sha256:" + "0" * 64},
    "commonLabels": {"cost-center": "42"},
    "annotations": {"reloader.example.com/match": "true"},
    "revisionHistoryLimit": 3,
    "extraArgs": ["--config", "/extra/config.yaml"],
    "extraVolumes": [{"name": "extra", "configMap": {"name": "extra"}}],
    "extraVolumeMounts": [{"name": "extra", "mountPath": "/extra"}],
    "probes": {"liveness": {"periodSeconds": 30}},
    "extraEnv": [{"name": "LICET_DEBUG", "value": "1"}],
    "podAnnotations": {"a": "b"},
    "podLabels": {"team": "sre"},
    "serviceAccount": {"annotations": {"a": "b"}},
    "affinity": {"nodeAffinity": {}},
    "unloadOnStop": True,
    "licenses": {"acme.json": '{"payload": "{{ }}"}\n', "other.json": "{}"},
    "keys": {"acme.yaml": "kid: 5f\nissuer: Acme\n"},
}
BARE: Object = {
    "existingPolicyConfigMap": "mine",
    "existingLicensesSecret": "our-licenses",
    "existingKeysSecret": "our-keys",
    "hostUsers": False,
    "serviceAccount": {"create": False},
    "tolerations": [],
    "fullnameOverride": "other",
}


@pytest.fixture(scope="module")
def default() -> list[Object]:
    return render()


def complaints(objects: list[Object], version: str) -> list[str]:
    found = []
    for each in objects:
        if each["kind"] not in OPERATORS_OWN:
            try:
                kubernetes_validate.validate(each, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                found.append(f"{each['kind']}: {error.path}: {error.message}")
    return found


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("values", [{}, EVERYTHING, BARE], ids=["default", "everything", "bare"])
def test_every_object_fits_kubernetes_schema(values: Object, version: str) -> None:
    assert complaints(render({**values, "kubeVersion": version}), version) == []


def test_a_misplaced_field_would_be_found(default: list[Object]) -> None:
    pod_of(default)["hostPid"] = True
    assert complaints(default, VERSIONS[-1])
    del pod_of(default)["hostPid"]


@pytest.mark.parametrize(("mode", "said"), [("observe", "It observes"), ("enforce", "It ENFORCES")])
def test_the_notes_say_what_happens_now(mode: str, said: str) -> None:
    notes = run({"enforcement": {"default": "observe", "db/admin": mode}}).stdout.partition("---\n")[0]
    assert said in notes
    assert "unloadOnStop=true" in notes


def test_helm_lint_has_no_complaint() -> None:
    done = run({}, "--lint")
    assert done.returncode == 0, done.stdout


def test_every_mount_has_its_volume_and_every_volume_its_mount() -> None:
    for values in ({}, EVERYTHING, BARE):
        objects = [each for each in render(values) if each["kind"] == "DaemonSet"]
        pod = objects[0]["spec"]["template"]["spec"]
        mounted = [mount["name"] for mount in pod["containers"][0]["volumeMounts"]]
        assert sorted(mounted) == sorted(volume["name"] for volume in pod["volumes"])


def test_apparmor_is_asked_for_in_the_way_the_cluster_knows() -> None:
    name = "container.apparmor.security.beta.kubernetes.io/licet"
    for version, annotation, field in (("1.29.9", "unconfined", None), ("1.30.0", None, "Unconfined")):
        objects = render({"kubeVersion": version})
        metadata = one(objects, "DaemonSet")["spec"]["template"]["metadata"]
        assert metadata["annotations"].get(name) == annotation
        profile = container_of(objects)["securityContext"].get("appArmorProfile", {})
        assert profile.get("type") == field


def test_nothing_is_privileged_and_no_token_is_mounted(default: list[Object]) -> None:
    context = container_of(default)["securityContext"]
    assert context["privileged"] is False
    assert context["readOnlyRootFilesystem"] is True
    assert context["capabilities"]["drop"] == ["ALL"]
    assert pod_of(default)["automountServiceAccountToken"] is False
    assert not [each for each in default if "Role" in each["kind"]]


def test_the_agent_reads_its_settings_as_the_chart_writes_them(default: list[Object], tmp_path: Path) -> None:
    written = tmp_path / "config.yaml"
    written.write_text(one(default, "ConfigMap")["data"]["config.yaml"])
    settings = load_settings(written)
    mounts = {mount["mountPath"] for mount in container_of(default)["volumeMounts"]}
    assert {str(settings.paths.policy_dir), str(settings.paths.run), str(settings.paths.state)} <= mounts
    assert str(settings.paths.pins.parent) in mounts
    assert settings.listen.endswith(f":{container_of(default)['ports'][0]['containerPort']}")


@pytest.mark.parametrize("address", ["0.0.0.0", "127.0.0.1", "[::]"])
def test_probes_ask_where_nobody_from_elsewhere_can(address: str) -> None:
    objects = render({"metrics": {"address": address}, "health": {"port": 9000}})
    settings = Settings.model_validate(yaml.safe_load(one(objects, "ConfigMap")["data"]["config.yaml"]))
    assert settings.health_listen == "127.0.0.1:9000"
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        asked = container_of(objects)[probe]["httpGet"]
        assert f"{asked['host']}:{asked['port']}" == settings.health_listen


def test_every_setting_but_those_of_the_chart_is_a_value() -> None:
    schema = yaml.safe_load((CHART / "values.schema.json").read_text())
    known = set(schema["properties"]["config"]["properties"])
    assert known == set(Settings.model_fields) - {"listen", "health_listen", "paths"}


def test_files_of_a_policy_may_be_called_as_the_agent_reads_them() -> None:
    done = run({"policy": {"a.yml": "version: 1\n", "b.yaml": ""}})
    assert done.returncode == 0, done.stderr
    objects = list(yaml.safe_load_all(done.stdout))
    assert {"a.yml", "b.yaml"} <= set(one(objects, "ConfigMap", "licet-policy")["data"])


def volumes(values: Object) -> dict[str, Object]:
    return {each["name"]: each for each in pod_of(render(values))["volumes"]}


def test_licenses_are_a_secret_and_keys_a_config_map_beside_it() -> None:
    objects = render(EVERYTHING)
    data = one(objects, "Secret", "licet-licenses")["data"]
    files = {name: base64.b64decode(content).decode() for name, content in data.items()}
    assert files == EVERYTHING["licenses"]
    keys = one(objects, "ConfigMap", "licet-keys")["data"]
    assert {name: text.strip() for name, text in keys.items()} == {"acme.yaml": "kid: 5f\nissuer: Acme"}
    mounts = {mount["name"]: mount["mountPath"] for mount in container_of(objects)["volumeMounts"]}
    settings = Settings.model_validate(yaml.safe_load(one(objects, "ConfigMap")["data"]["config.yaml"]))
    assert mounts["licenses"] == str(settings.paths.licenses)
    assert mounts["keys"] == str(settings.paths.keys)


@pytest.mark.parametrize(
    ("values", "licenses", "keys"),
    [
        ({}, {"secretName": "licet-licenses"}, ("configMap", {"name": "licet-keys"})),
        ({"existingLicensesSecret": "a"}, {"secretName": "a"}, ("configMap", {"name": "licet-keys"})),
        ({"existingKeysConfigMap": "b"}, {"secretName": "licet-licenses"}, ("configMap", {"name": "b"})),
        ({"existingKeysSecret": "c"}, {"secretName": "licet-licenses"}, ("secret", {"secretName": "c"})),
    ],
)
def test_where_licenses_and_keys_are_missing_the_agent_starts_all_the_same(
    values: Object, licenses: Object, keys: tuple[str, Object]
) -> None:
    found = volumes(values)
    assert found["licenses"]["secret"] == {**licenses, "optional": True}
    kind, source = keys
    assert found["keys"] == {"name": "keys", kind: {**source, "optional": True}}
    kinds = [each["kind"] for each in render(values)]
    assert "Secret" not in kinds


def test_the_default_policy_is_accepted_and_observes(default: list[Object], tmp_path: Path) -> None:
    for name, text in one(default, "ConfigMap", "licet-policy")["data"].items():
        (tmp_path / name).write_text(text)
    loaded = load_in_place(tmp_path / "none.yaml", tmp_path)
    assert loaded is not None
    policy = loaded.policy
    assert {mode.value for mode in policy.enforcement.values()} == {"observe"}


def test_a_new_policy_does_not_restart_the_pods_and_a_new_setting_does(default: list[Object]) -> None:
    def annotations(values: Object) -> Any:
        return one(render(values), "DaemonSet")["spec"]["template"]["metadata"]["annotations"]

    assert annotations({"enforcement": {"default": "enforce"}}) == annotations({})
    assert annotations({"config": {"costs": True}}) != annotations({})


def test_rules_and_dashboard_are_those_of_packaging() -> None:
    objects = render(EVERYTHING)
    files = [ROOT / "packaging" / "prometheus" / f"licet-{name}.yaml" for name in ("recording", "alerts")]
    expected = [group for file in files for group in yaml.safe_load(file.read_text())["groups"]]
    assert one(objects, "PrometheusRule")["spec"]["groups"] == expected
    shipped = (ROOT / "packaging" / "grafana" / "licet.json").read_text()
    assert one(objects, "ConfigMap", "licet-dashboard")["data"]["licet.json"] == shipped


def test_what_the_operator_gets_is_named_as_the_rules_ask() -> None:
    objects = render(EVERYTHING)
    for kind, entries in OPERATORS_OWN.items():
        found = one(objects, kind)
        assert found["apiVersion"] == "monitoring.coreos.com/v1"
        assert isinstance(found["spec"][entries], list)
    labels = one(objects, "DaemonSet")["spec"]["template"]["metadata"]["labels"]
    for kind in ("PodMonitor", "ServiceMonitor"):
        spec = one(objects, kind)["spec"]
        assert spec["selector"]["matchLabels"].items() <= labels.items()
        (endpoint,) = spec[OPERATORS_OWN[kind]]
        assert endpoint["port"] == container_of(objects)["ports"][0]["name"]
        assert {"targetLabel": "job", "replacement": "licet"} in endpoint["relabelings"]


def test_a_monitor_in_another_namespace_finds_the_agents_in_the_releases() -> None:
    objects = render(EVERYTHING)
    assert one(objects, "PodMonitor")["metadata"]["namespace"] == "licet"
    for kind in ("ServiceMonitor", "PrometheusRule"):
        assert one(objects, kind)["metadata"]["namespace"] == "monitoring"
    monitor = one(objects, "ServiceMonitor")["spec"]
    assert monitor["namespaceSelector"] == {"matchNames": [one(objects, "Service")["metadata"]["namespace"]]}
    (endpoint,) = monitor["endpoints"]
    assert endpoint["relabelings"][-1]["action"] == "labeldrop"
    assert endpoint["metricRelabelings"] == EVERYTHING["serviceMonitor"]["metricRelabelings"]
    assert "scrapeTimeout" not in endpoint
    assert one(objects, "PodMonitor")["spec"]["podMetricsEndpoints"][0]["scrapeTimeout"] == "10s"


def test_each_alert_has_a_link_where_the_runbooks_are_served() -> None:
    served = "https://docs.example.com/licet/runbooks.md"
    rule = one(render({"prometheusRule": {"enabled": True, "runbookUrl": served}}), "PrometheusRule")
    alerts = [each for group in rule["spec"]["groups"] for each in group["rules"] if "alert" in each]
    assert alerts
    for alert in alerts:
        assert alert["annotations"]["runbook_url"] == f"{served}#{alert['alert'].lower()}"
        assert "runbook" not in alert["annotations"]


def test_common_labels_are_on_every_object_and_select_nothing() -> None:
    objects = render(EVERYTHING)
    assert all(each["metadata"]["labels"]["cost-center"] == "42" for each in objects)
    daemons = one(objects, "DaemonSet")
    assert daemons["spec"]["template"]["metadata"]["labels"]["cost-center"] == "42"
    assert "cost-center" not in daemons["spec"]["selector"]["matchLabels"]
    assert daemons["metadata"]["annotations"] == EVERYTHING["annotations"]


def test_what_is_asked_of_the_agent_stays_and_how_often_is_a_value() -> None:
    container = container_of(render(EVERYTHING))
    assert container["livenessProbe"]["periodSeconds"] == 30
    assert container["livenessProbe"]["failureThreshold"] == 4
    paths = {
        name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "liveness", "readiness")
    }
    assert paths == {"startup": "/readyz", "liveness": "/healthz", "readiness": "/readyz"}


def test_extra_arguments_reach_the_agent(tmp_path: Path) -> None:
    """Also where a shell is around it: that is run, with a `licet` that writes down what it was given."""
    values = {"extraArgs": ["--config", "/a path/config.yaml"]}
    assert container_of(render(values))["args"] == ["licet", "run", "--quiet", *values["extraArgs"]]
    args = container_of(render({**values, "unloadOnStop": True}))["args"]
    licet = tmp_path / "licet"
    licet.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    licet.chmod(0o755)
    done = subprocess.run(
        args, capture_output=True, text=True, check=True, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}
    )
    assert done.stdout.splitlines() == ["run", "--quiet", *values["extraArgs"]]


def test_the_charts_version_is_the_agents() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (str(chart["version"]), str(chart["appVersion"])) == (__version__, __version__)


def test_the_image_is_named_with_its_registry() -> None:
    zeros = "sha256:" + "0" * 64
    for image, name in (
        ({}, f"licet:{__version__}"),
        ({"registry": "r.example.com"}, f"r.example.com/licet:{__version__}"),
        ({"registry": "r.example.com:5000", "digest": zeros}, f"r.example.com:5000/licet@{zeros}"),
        ({"repository": "r.example.com/team/licet", "tag": "1"}, "r.example.com/team/licet:1"),
    ):
        assert container_of(render({"image": image}))["image"] == name


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"enforcment": {}}, "enforcment"),
        ({"licenses": {"existingSecret": "a"}}, "licenses"),
        ({"probes": {"liveness": {"httpGet": {}}}}, "httpGet"),
        ({"extraVolumes": [{"emptyDir": {}}]}, "name"),
        ({"prometheusRule": {"runbookUrl": "docs/runbooks.md"}}, "runbookUrl"),
        ({"enforcement": {"default": "on"}}, "enforcement"),
        ({"policy": {"a.json": ""}}, "a.json"),
        ({"licenses": {"a.yaml": ""}}, "a.yaml"),
        ({"keys": {"a.json": ""}}, "a.json"),
        ({"policy": {".a.yml": ""}}, ".a.yml"),
        ({"metrics": {"port": 0}}, "port"),
        ({"config": {"listen": "0.0.0.0:1"}}, "listen"),
        ({"securityContext": {"capabilities": ["CAP_BPF"]}}, "capabilities"),
    ],
)
def test_a_wrong_value_is_refused_by_name(values: Object, said: str) -> None:
    done = run(values)
    assert done.returncode != 0
    assert said in done.stderr


def test_the_plain_manifest_is_what_make_manifests_writes() -> None:
    argv = [sys.executable, MANIFEST.with_name("generate.py")]
    made = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    assert made == MANIFEST.read_text(), "run `make manifests`"
    objects = list(yaml.safe_load_all(made))
    assert complaints(objects, VERSIONS[-1]) == []
    assert [each["kind"] for each in objects].count("DaemonSet") == 1

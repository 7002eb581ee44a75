"""The manifests for Kubernetes, as kustomize makes them, against the API's own schemas."""

import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from polyclinic_server.enrolment.endpoint import PORT

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docker" / "kubernetes"
SIDES = {"coordinator": "coordinator", "serve": "coordinator", "hospital": "hospital"}
VERSIONS = ("1.28", "1.37")  # the oldest that the page names, and the newest that is known
Manifest = dict[str, Any]


def kustomize(folder: Path) -> list[Manifest]:
    made = subprocess.run(
        [Path(sys.executable).with_name("kubectl"), "kustomize", folder],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert made.returncode == 0, made.stderr
    return list(yaml.safe_load_all(made.stdout))


def pods(manifests: list[Manifest]) -> list[Manifest]:
    return [each["spec"]["template"] for each in manifests if each["kind"] in ("Job", "Deployment")]


@pytest.fixture(scope="module", params=SIDES.items(), ids=SIDES)
def choice(request: pytest.FixtureRequest) -> tuple[str, str]:
    folder, side = request.param
    return folder, side


@pytest.fixture(scope="module")
def side(choice: tuple[str, str]) -> str:
    return choice[1]


@pytest.fixture(scope="module")
def manifests(choice: tuple[str, str]) -> list[Manifest]:
    return kustomize(FOLDER / choice[0])


@pytest.mark.parametrize("version", VERSIONS)
def test_the_api_knows_every_field(manifests: list[Manifest], version: str) -> None:
    for each in manifests:
        kubernetes_validate.validate(each, version, strict=True)


def test_the_schemas_refuse_a_field_that_is_not_there(manifests: list[Manifest]) -> None:
    (pod,) = pods(manifests)
    pod["spec"]["readOnly"] = True
    with pytest.raises(kubernetes_validate.ValidationError):
        for each in manifests:
            kubernetes_validate.validate(each, VERSIONS[-1], strict=True)
    del pod["spec"]["readOnly"]


def test_pods_are_confined_as_the_namespace_demands(manifests: list[Manifest]) -> None:
    (namespace,) = (each for each in manifests if each["kind"] == "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    (pod,) = pods(manifests)
    spec, context = pod["spec"], pod["spec"]["securityContext"]
    assert context["runAsNonRoot"] is True and context["runAsUser"] == 10001
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    for container in (*spec.get("initContainers", []), *spec["containers"]):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"]["memory"]
        assert container["image"].endswith(f":{version('polyclinic')}")


def test_policies_hold_for_this_side_alone(side: str, manifests: list[Manifest]) -> None:
    (policy,) = (each["spec"] for each in manifests if each["kind"] == "NetworkPolicy")
    (pod,) = pods(manifests)
    chosen = policy["podSelector"]["matchLabels"]
    assert chosen["app.kubernetes.io/component"] == side
    assert chosen.items() <= pod["metadata"]["labels"].items()
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    if side == "coordinator":
        assert policy["ingress"] == [{"ports": [{"protocol": "TCP", "port": PORT}]}]
        assert policy["egress"] == []
    else:
        assert policy["ingress"] == []
        ports = {one["port"] for rule in policy["egress"] for one in rule["ports"]}
        assert ports == {PORT, 53}


@pytest.mark.parametrize("folder", ["coordinator", "serve"])
def test_the_service_leads_to_the_run(folder: str) -> None:
    manifests = kustomize(FOLDER / folder)
    (service,) = (each["spec"] for each in manifests if each["kind"] == "Service")
    (pod,) = pods(manifests)
    assert service["selector"].items() <= pod["metadata"]["labels"].items()
    (container,) = pod["spec"]["containers"]
    (port,) = container["ports"]
    assert service["ports"][0]["targetPort"] == port["name"] and port["containerPort"] == PORT
    assert str(PORT) in container["readinessProbe"]["exec"]["command"][-1]


def test_a_coordinator_that_stays_up_takes_the_place_of_the_run() -> None:
    manifests = kustomize(FOLDER / "serve")
    assert not [each for each in manifests if each["kind"] == "Job"]
    (deployment,) = (each for each in manifests if each["kind"] == "Deployment")
    spec = deployment["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})
    labels = spec["template"]["metadata"]["labels"]
    assert spec["selector"]["matchLabels"].items() <= labels.items()
    (container,) = spec["template"]["spec"]["containers"]
    assert container["command"] == ["polyclinic-server", "serve"]
    assert "args" not in container
    assert spec["template"]["spec"].get("restartPolicy", "Always") == "Always"


def test_a_hospital_is_ready_when_it_is_admitted_and_reads_its_data_only() -> None:
    (pod,) = pods(kustomize(FOLDER / "hospital"))
    (container,) = pod["spec"]["containers"]
    probe = container["readinessProbe"]["exec"]["command"]
    assert probe == ["python", "-m", "polyclinic_client.site.health", "/state"]
    assert "livenessProbe" not in container  # a coordinator that is away restarts no hospital
    mounts = {each["mountPath"]: each for each in container["volumeMounts"]}
    assert mounts["/data"]["readOnly"] is True and mounts["/keys"]["readOnly"] is True
    assert set(mounts) == {"/data", "/keys", "/state", "/tmp"}


@pytest.mark.parametrize("number", range(2))
def test_what_the_page_shows_is_an_overlay_that_works(number: int, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "how-to" / "kubernetes.md").read_text()
    shown = re.findall(r"```yaml\n(# kustomization\.yaml.*?)```", page, re.DOTALL)
    assert len(shown) == 2
    folder = tmp_path / "mine"
    folder.mkdir()
    shutil.copytree(FOLDER, tmp_path / "polyclinic" / "docker" / "kubernetes")
    (folder / "kustomization.yaml").write_text(shown[number])
    manifests = kustomize(folder)
    for each in manifests:
        kubernetes_validate.validate(each, VERSIONS[-1], strict=True)
    (pod,) = pods(manifests)
    (container,) = pod["spec"]["containers"]
    if number == 0:
        assert "strategy=averaging/fedavg" in container["args"]
        names = [each["metadata"]["name"] for each in manifests if each["kind"] == "Job"]
        assert names == ["run-tumours"]
    else:
        assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
        (policy,) = (each["spec"] for each in manifests if each["kind"] == "NetworkPolicy")
        assert policy["egress"][0]["to"] == [{"ipBlock": {"cidr": "192.0.2.10/32"}}]

"""Dockerfile, compose.yaml and the manifest for Kubernetes say what pyproject, constraints and commands say.

No image is built here. What can be run without a daemon is run: the step that finds the requirements, and the wheel
from exactly the files that reach the build.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import pytest
from lazy import lazy
from places import ROOT

from harness.commands.cli import main
from harness.workloads.files import DATA_VARIABLE

yaml = lazy("yaml")

DOCKERFILE, COMPOSE, PAGE = ROOT / "Dockerfile", ROOT / "compose.yaml", ROOT / "docs" / "clusters.md"

pytestmark = pytest.mark.skipif(not DOCKERFILE.is_file(), reason="an installed package has no Dockerfile beside it")

TARGETS = ("cpu", "cuda")


@dataclass
class Stage:
    """One stage of the Dockerfile.

    Attributes:
        steps: (instruction, its arguments) in order, lines that go on joined.
    """

    base: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def of(self, instruction: str) -> list[str]:
        return [arguments for name, arguments in self.steps if name == instruction]

    @property
    def environment(self) -> dict[str, str]:
        return dict(word.split("=", 1) for text in self.of("ENV") for word in shlex.split(text))


def stages() -> dict[str, Stage]:
    """Return the stages by name."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if not line.lstrip().startswith("#")]
    found: dict[str, Stage] = {}
    for line in re.sub(r"\\\n\s*", " ", "\n".join(lines)).splitlines():
        if not line.strip():
            continue
        instruction, _, arguments = line.strip().partition(" ")
        if instruction == "FROM":
            base, _, name = arguments.partition(" AS ")
            stage = found[name] = Stage(base)
        else:
            stage.steps.append((instruction, arguments.strip()))
    return found


def project() -> dict[str, Any]:
    return dict(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"])


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if "==" in line)


def parsed(words: list[str]) -> dict[str, Any]:
    """Return the options of a command line of ours; raises what it would be refused with."""
    command: click.Command = main
    while isinstance(command, click.Group):
        command = command.commands[words[0]]
        words = words[1:]
    parent = main.make_context("harness", ["schema"])
    return command.make_context("harness", list(words), parent=parent).params


# -- the Dockerfile ----------------------------------------------------------------------------------------------------


def test_base_images_are_pinned_and_their_python_is_one_that_is_tested():
    outer = {stage.base for stage in stages().values()} - set(stages())
    (image,) = outer
    version = re.fullmatch(r"python:(\d+\.\d+)\.\d+-slim-\w+", image)
    assert version, image
    assert f"Programming Language :: Python :: {version[1]}" in project()["classifiers"]
    workflow = ROOT / ".github" / "workflows" / "ci.yml"
    assert not workflow.is_file() or f'python-version: "{version[1]}"' in workflow.read_text()


def test_both_targets_run_the_command_as_a_user_that_is_not_root():
    assert set(TARGETS) <= set(stages())
    for name in TARGETS:
        stage = stages()[name]
        assert stage.of("USER") == ["1000:1000"]
        assert stage.steps.index(("USER", "1000:1000")) > max(
            number for number, (instruction, _) in enumerate(stage.steps) if instruction == "RUN"
        )
        (command,) = json.loads(stage.of("ENTRYPOINT")[0])
        assert command in project()["scripts"]
        parsed(json.loads(stage.of("CMD")[0]))


def test_data_sets_and_results_are_volumes_of_that_user():
    (made,) = (text for text in stages()["base"].of("RUN") if "useradd" in text)
    for name in TARGETS:
        (volumes,) = map(json.loads, stages()[name].of("VOLUME"))
        assert volumes == [stages()["base"].environment[DATA_VARIABLE], stages()[name].of("WORKDIR")[-1]]
        assert all(re.search(rf"chown harness .*{folder}\b", made) for folder in volumes)
    assert "--uid 1000" in made


def test_targets_differ_in_how_torch_is_found_and_in_what_the_driver_shows():
    cpu, cuda = (stages()[name] for name in TARGETS)
    without = [step for step in cpu.steps if step[0] != "ARG" and "TORCH_INDEX" not in step[1]]
    assert [step for step in cuda.steps if step[0] != "ENV" and not step[1].endswith(" torch")] == without
    assert set(cuda.environment["NVIDIA_DRIVER_CAPABILITIES"].split(",")) == {"compute", "utility"}  # utility is NVML
    for stage in (cpu, cuda):
        (torch,) = (text for text in stage.of("RUN") if text.endswith(" torch"))
        assert "--constraint constraints.txt" in torch
    least = next(each.partition(">=")[2] for each in project()["dependencies"] if each.startswith("torch"))
    assert [int(part) for part in pins()["torch"].split(".")[:2]] >= [int(part) for part in least.split(".")]


def test_what_changes_daily_comes_after_what_is_large():
    for name in TARGETS:
        done = [text for instruction, text in stages()[name].steps if instruction in ("RUN", "COPY")]
        torch = next(n for n, text in enumerate(done) if text.endswith(" torch"))
        requirements = next(n for n, text in enumerate(done) if "--requirement" in text)
        ours = next(n for n, text in enumerate(done) if "--from=wheel" in text)
        assert torch < requirements < ours
        assert not any(text.startswith(("harness", "plugins")) for text in stages()[name].of("COPY"))


@pytest.mark.parametrize("extras", ["", *project()["optional-dependencies"]])
def test_requirements_are_those_of_pyproject_with_its_extras(extras, tmp_path):
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "python").symlink_to(sys.executable)
    (step,) = stages()["requirements"].of("RUN")
    environment = {"EXTRAS": extras, "PACKAGES": "ray[default] x==1", "PATH": f"{tmp_path}:/usr/bin:/bin"}
    subprocess.run(["sh", "-ec", step], cwd=tmp_path, env=environment, check=True)
    expected = [*project()["dependencies"], *project()["optional-dependencies"].get(extras, ())]
    assert (tmp_path / "requirements.txt").read_text().split("\n") == [*expected, "ray[default]", "x==1", ""]
    assert {"EXTRAS", "PACKAGES"} <= {text.partition("=")[0] for text in stages()["requirements"].of("ARG")}


def copied() -> set[str]:
    """Return the files and folders that any stage copies from the tree."""
    texts = [text for stage in stages().values() for text in stage.of("COPY") if not text.startswith("--from")]
    return {name for text in texts for name in text.split()[:-1]}


def test_the_build_gets_what_it_copies_and_nothing_else():
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    assert {line.removeprefix("!") for line in lines if line.startswith("!")} == copied()
    assert all((ROOT / name).exists() for name in copied())


def test_a_wheel_can_be_built_from_what_is_copied(tmp_path):
    for name in sorted(copied()):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", "wheels"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert len(list((tmp_path / "wheels").glob("*.whl"))) == 1


def test_hadolint_finds_nothing():
    command = Path(sys.executable).with_name("hadolint")
    if not command.exists():
        pytest.skip("hadolint is not installed: make .venv/.tested")
    done = subprocess.run([command, "Dockerfile"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


# -- compose.yaml ------------------------------------------------------------------------------------------------------


def compose() -> dict[str, Any]:
    return dict(yaml.safe_load(COMPOSE.read_text()))


def defaulted(word: str) -> str:
    """Return a word with its variables at their defaults."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", word)


def test_compose_has_the_form_of_its_specification():
    schema = ROOT / ".venv" / "axe" / "node_modules" / "dclint" / "schemas" / "compose.schema.json"
    if not schema.is_file():
        pytest.skip("no copy of the schema of compose files: make .venv/.axe")
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed: make .venv/.integrated")
    jsonschema.Draft7Validator(json.loads(schema.read_text())).validate(compose())


def test_two_nodes_run_one_scenario_and_meet_at_the_first():
    services = compose()["services"]
    options = {name: parsed([defaulted(word) for word in each["command"]]) for name, each in services.items()}
    assert [each["nnodes"] for each in options.values()] == [len(services)] * len(services)
    assert [each["node_rank"] for each in options.values()] == list(range(len(services)))
    first = next(name for name, each in options.items() if each["node_rank"] == 0)
    assert {each["rendezvous"].partition(":")[0] for each in options.values()} == {first}
    assert len({each["rendezvous"] for each in options.values()}) == 1
    assert len({(each["scenario"], each["sets"]) for each in options.values()}) == 1
    networks = [set(each["networks"]) for each in services.values()]
    assert set.intersection(*networks)


def test_the_key_of_the_nodes_is_the_variable_that_the_harness_reads_and_has_to_be_given():
    from harness.engines.processes.doors import KEY_VARIABLE

    for each in compose()["services"].values():
        assert re.fullmatch(rf"\$\{{{KEY_VARIABLE}:\?.+\}}", each["environment"][KEY_VARIABLE])


def test_compose_builds_a_target_with_its_arguments_and_mounts_its_volumes():
    volumes = json.loads(stages()["cpu"].of("VOLUME")[0])
    for name, each in compose()["services"].items():
        stage = stages()[each["build"]["target"]]
        assert set(each["build"]["args"]) <= {text.partition("=")[0] for text in stage.of("ARG")}
        mounted = dict(volume.split(":") for volume in each["volumes"])
        assert set(mounted) <= set(compose()["volumes"])
        assert set(mounted.values()) <= set(volumes)
        assert each["init"] is True, name
    assert set(dict(volume.split(":") for volume in compose()["services"]["node0"]["volumes"]).values()) == set(volumes)


# -- the page on clusters ----------------------------------------------------------------------------------------------

FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def shown() -> list[str]:
    """Return the lines that the page shows to be typed."""
    blocks = [code for kind, code in FENCE.findall(PAGE.read_text()) if kind == "sh"]
    return [re.sub(r"\s+#.*", "", line) for block in blocks for line in block.splitlines()]


def test_commands_that_something_else_starts_are_ours():
    """`docker run IMAGE`, `docker compose run SERVICE`, torchrun and srun are followed by words of the harness."""
    starts = {"docker run": r"harness:\w+", "docker compose run": r"node\d", "torchrun": "harness", "srun": "harness"}
    starts["kubectl exec"] = "harness"
    seen = set()
    for line in shown():
        for start, last in starts.items():
            if line.startswith(start + " "):
                words = shlex.split(line.replace("$PWD", "."))
                after = next(n for n, word in enumerate(words) if re.fullmatch(last, word))
                parsed(words[after + 1 :])
                seen.add(start)
    assert seen == set(starts)


def test_images_are_built_as_the_dockerfile_has_it():
    built = [line for line in shown() if line.startswith("docker build")]
    assert len(built) == 3
    for line in built:
        target = re.search(r"--target (\w+)", line)
        assert target
        assert target[1] in TARGETS
        known = {text.partition("=")[0] for name in (target[1], "requirements") for text in stages()[name].of("ARG")}
        assert set(re.findall(r"--build-arg (\w+)=", line)) <= known


def manifest() -> list[dict[str, Any]]:
    (code,) = (code for kind, code in FENCE.findall(PAGE.read_text()) if kind == "yaml")
    return list(yaml.safe_load_all(code))


def pods() -> list[dict[str, Any]]:
    """Return the pods of the Ray cluster: head, then workers."""
    cluster = manifest()[1]["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [group["template"] for group in groups]


def test_kubernetes_takes_the_claim_and_the_pods():
    reason = "kubernetes-validate is not installed: make .venv/.integrated"
    checker = pytest.importorskip("kubernetes_validate", reason=reason)
    for number, pod in enumerate(pods()):
        whole = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"pod-{number}"}, **pod}
        checker.validate(whole, checker.latest_version(), strict=True)
    checker.validate(manifest()[0], checker.latest_version(), strict=True)
    misspelt = {**manifest()[0], "spec": {**manifest()[0]["spec"], "acessModes": []}}
    with pytest.raises(checker.ValidationError):
        checker.validate(misspelt, checker.latest_version(), strict=True)


TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
WHOLE = {"type": "integer", "minimum": 0}
TEMPLATE = {"type": "object", "required": ["spec"], "properties": {"spec": {"type": "object"}}}
HEAD = {
    "type": "object",
    "required": ["template"],
    "properties": {"rayStartParams": TEXTS, "template": TEMPLATE},
    "additionalProperties": False,
}
WORKERS = {
    "type": "object",
    "required": ["groupName", "minReplicas", "maxReplicas", "template"],
    "properties": {
        "groupName": {"type": "string"},
        **dict.fromkeys(("replicas", "minReplicas", "maxReplicas"), WHOLE),
        "rayStartParams": TEXTS,
        "template": TEMPLATE,
    },
    "additionalProperties": False,
}
RAY_JOB = {
    "type": "object",
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "properties": {
        "apiVersion": {"const": "ray.io/v1"},
        "kind": {"const": "RayJob"},
        "metadata": {"type": "object", "required": ["name"]},
        "spec": {
            "type": "object",
            "required": ["entrypoint", "rayClusterSpec"],
            "properties": {
                "entrypoint": {"type": "string"},
                "entrypointNumGpus": {"type": "number"},
                "shutdownAfterJobFinishes": {"type": "boolean"},
                "backoffLimit": WHOLE,
                "rayClusterSpec": {
                    "type": "object",
                    "required": ["headGroupSpec"],
                    "properties": {
                        "rayVersion": {"type": "string"},
                        "headGroupSpec": HEAD,
                        "workerGroupSpecs": {"type": "array", "items": WORKERS},
                    },
                    "additionalProperties": False,
                },
            },
            "additionalProperties": False,
        },
    },
    "additionalProperties": False,
}
"""The part of the operator's types that the page uses. Source: ray-project/kuberay, ray-operator/apis/ray/v1/
{rayjob,raycluster}_types.go (v1.4): keys that are no pointer and have no omitempty are required there."""


def test_rays_operator_takes_the_job():
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed: make .venv/.integrated")
    checker = jsonschema.Draft202012Validator(RAY_JOB)
    job = manifest()[1]
    checker.validate(job)
    for wrong in ({**job, "kind": "RayCluster"}, {**job, "spec": {**job["spec"], "entryPoint": "x"}}):
        assert not checker.is_valid(wrong)


def test_the_job_runs_the_harness_where_its_volume_lies():
    claim, job = manifest()
    words = shlex.split(job["spec"]["entrypoint"])
    assert words[0] in project()["scripts"]
    options = parsed(words[1:])
    assert options["executor"] == "ray"
    for pod in pods():
        (container,) = pod["spec"]["containers"]
        volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
        mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
        assert set(mounts) - {"/dev/shm"} == {"/workspace"}
        assert mounts["/workspace"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        assert options["root"].is_relative_to("/workspace")
        assert pod["spec"]["securityContext"] == {"runAsNonRoot": True, "fsGroup": 1000}
        image = container["image"].rpartition("/")[2]
        assert any(f"/{image} " in line and "--build-arg EXTRAS=ray" in line for line in shown())
    if "ray" in pins():
        assert job["spec"]["rayClusterSpec"]["rayVersion"] == pins()["ray"]

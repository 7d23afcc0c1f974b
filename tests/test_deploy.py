"""The files in `deploy/` and the commands in the README and `docs/howto/` say what the program understands."""

from __future__ import annotations

import itertools
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from qsweep.orchestrator import serving
from qsweep.orchestrator.cli import app
from qsweep.orchestrator.cluster import AUTO, Node, Wanted, check_form
from tests.postgres import missing_postgres, running_server

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs" / "howto").glob("*.md"))]
KUBERAY = {
    "spec": {"rayVersion", "enableInTreeAutoscaling", "autoscalerOptions", "headGroupSpec", "workerGroupSpecs"},
    "autoscalerOptions": {"idleTimeoutSeconds", "upscalingMode", "resources", "image", "version", "env"},
    "headGroupSpec": {"rayStartParams", "template", "headService", "enableIngress", "serviceType"},
    "workerGroupSpecs": {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"},
}
"""Fields of a RayCluster, from KubeRay's API reference of `ray.io/v1`."""
BLOCK = re.compile(r"^```sh[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def check_command(words: list[str]) -> None:
    """Raises what the command line would, for a command, an option or an address of Ray that there can't be."""
    command: Any = typer.main.get_command(app)
    context = command.make_context("qsweep", [*words], resilient_parsing=False)
    name, found, rest = command.resolve_command(context, context._protected_args + context.args)
    while hasattr(found, "commands"):
        context = found.make_context(name, rest, parent=context)
        name, found, rest = found.resolve_command(context, context._protected_args + context.args)
    address = found.make_context(name, rest, parent=context).params.get("ray_address", AUTO)
    if address not in (None, AUTO):
        check_form(address)


def commands(text: str) -> Iterator[list[str]]:
    """The calls of qsweep in a piece of shell, with comments and quotes resolved."""
    for line in text.splitlines():
        found = re.search(r"(^|[\s'\"])qsweep (?!doctor$)(.*)$", line.split(" #")[0])
        if found and not line.lstrip().startswith(("image", "name", "#", "build", "docker build")):
            quote = found[1].strip()
            yield shlex.split(found[2].removesuffix(quote) if quote else found[2])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_of_the_readme_and_the_howto_pages_is_understood(page: Path) -> None:
    for block in BLOCK.findall(page.read_text()):
        for words in commands(block):
            check_command(words)


@pytest.mark.parametrize("name", ["kuberay.yaml", "ray-cluster.yaml"])
def test_every_command_in_the_head_of_a_file_is_understood(name: str) -> None:
    lines = (DEPLOY / name).read_text().splitlines()
    head = [line.removeprefix("#") for line in itertools.takewhile(lambda line: line.startswith("#"), lines)]
    found = list(commands("\n".join(head)))
    assert found
    for words in found:
        check_command(words)


def documents(name: str) -> list[Any]:
    return list(yaml.safe_load_all((DEPLOY / name).read_text()))


def test_the_compose_file_refers_to_nothing_that_it_does_not_declare() -> None:
    (compose,) = documents("compose.yaml")
    known = {"name", "services", "volumes", "secrets", "networks", "configs", "x-qsweep"}
    assert set(compose) <= known
    for service in compose["services"].values():
        assert set(service) <= {
            "image", "build", "environment", "volumes", "secrets", "depends_on", "entrypoint", "command", "deploy",
            "stop_grace_period", "restart", "healthcheck", "profiles", "configs",
        }  # fmt: skip
        assert {volume.split(":")[0] for volume in service["volumes"]} <= set(compose["volumes"])
        assert set(service["secrets"]) <= set(compose["secrets"])
        assert set(service.get("depends_on", {})) <= set(compose["services"])
        assert {config["source"] for config in service.get("configs", ())} <= set(compose["configs"])
    assert all((DEPLOY / config["file"]).is_file() for config in compose["configs"].values())
    build = compose["x-qsweep"]["build"]
    assert (DEPLOY / build["context"] / build["dockerfile"]).is_file()


def test_the_shell_in_the_compose_file_writes_a_password_file_and_becomes_qsweep(tmp_path: Path) -> None:
    (compose,) = documents("compose.yaml")
    agents, launch = compose["services"]["agents"], compose["services"]["launch"]
    (tmp_path / "secret").write_text("p4ss")
    (tmp_path / "qsweep").write_text('#!/bin/sh\necho "qsweep $*"\n')
    (tmp_path / "qsweep").chmod(0o755)
    environment = {"HOME": str(tmp_path), "PATH": f"{tmp_path}:/usr/bin:/bin"}
    for words, said in (
        ([*agents["entrypoint"], *agents["command"]], "qsweep worker"),
        ([*launch["entrypoint"], "digits-grid", "--limit", "4"], "qsweep launch digits-grid --limit 4"),
    ):
        # Compose makes one `$` of two.
        plain = [word.replace("$$", "$").replace("/run/secrets/postgres-password", "~/secret") for word in words]
        answer = subprocess.run(plain, env=environment, capture_output=True, text=True, check=True)
        assert answer.stdout == said + "\n"
        check_command(said.split()[1:])
        assert (tmp_path / ".pgpass").read_text() == "postgres:5432:*:qsweep:p4ss\n"
        assert (tmp_path / ".pgpass").stat().st_mode & 0o777 == 0o600


@pytest.mark.slow
def test_the_agents_of_the_compose_file_own_their_database_and_are_no_superuser() -> None:
    missing_postgres()
    import psycopg

    (compose,) = documents("compose.yaml")
    server = compose["services"]["postgres"]
    (config,) = server["configs"]
    script = DEPLOY / compose["configs"][config["source"]]["file"]
    assert config["target"].startswith("/docker-entrypoint-initdb.d/")
    assert "POSTGRES_USER" not in server["environment"]  # then the superuser is `postgres`
    with running_server() as running:
        with serving.superuser(running) as connection:
            connection.execute("DROP DATABASE qsweep")
            connection.execute("DROP ROLE qsweep")
            connection.execute("ALTER ROLE postgres PASSWORD 'it''s a secret'")
        # As the image does it.
        command = [
            str(serving._programs() / "psql"), "--set", "ON_ERROR_STOP=1", "--no-password", "--no-psqlrc",
            "--host", str(running.folder), "--port", str(running.port), "--username", "postgres", "--file", str(script),
        ]  # fmt: skip
        subprocess.run(command, env={"POSTGRES_PASSWORD": "it's a secret"}, check=True, stdout=subprocess.DEVNULL)
        place = f"host={serving.LOCAL} port={running.port} dbname=qsweep"
        with psycopg.connect(place, user="qsweep", password="it's a secret") as connection:
            assert connection.execute("SHOW is_superuser").fetchone() == ("off",)
            connection.execute("CREATE TABLE own (number int)")
        with serving.superuser(running) as connection:
            kept = connection.execute("SELECT rolpassword FROM pg_authid WHERE rolname = 'postgres'").fetchone()
        assert kept == (None,)


def test_the_ray_cluster_file_satisfies_rays_own_schema() -> None:
    pytest.importorskip("jsonschema")
    util = pytest.importorskip("ray.autoscaler._private.util")
    (cluster,) = documents("ray-cluster.yaml")
    prepared = util.prepare_config(cluster)
    util.validate_config(prepared)
    with pytest.raises(Exception, match="max_workers"):
        util.validate_config(prepared | {"max_workers": "many"})


def test_the_kuberay_manifest_is_consistent_and_can_be_launched_on() -> None:
    claim, cluster = documents("kuberay.yaml")
    assert (cluster["apiVersion"], cluster["kind"]) == ("ray.io/v1", "RayCluster")
    spec = cluster["spec"]
    head, (workers,) = spec["headGroupSpec"], spec["workerGroupSpecs"]
    assert set(spec) <= KUBERAY["spec"]
    assert set(spec["autoscalerOptions"]) <= KUBERAY["autoscalerOptions"]
    assert set(head) <= KUBERAY["headGroupSpec"]
    assert set(workers) <= KUBERAY["workerGroupSpecs"]
    for group in (head, workers):
        pod = group["template"]["spec"]
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        assert pod["securityContext"] == {"fsGroup": 1000}
        (volume,), (container,) = pod["volumes"], pod["containers"]
        assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        (mount,) = container["volumeMounts"]
        assert mount["name"] == volume["name"]
        given = {one["name"]: one.get("value") for one in container["env"]}
        assert Path(given["QSWEEP_DATA"]).is_relative_to(mount["mountPath"])
    assert 1 <= workers["minReplicas"] <= workers["replicas"] <= workers["maxReplicas"]
    start, limits = workers["rayStartParams"], workers["template"]["spec"]["containers"][0]["resources"]["limits"]
    node = Node(id="", host="", cpus=float(start["num-cpus"]), gpus=float(limits["nvidia.com/gpu"]), memory=16e9)
    nothing = Node(id="", host="", cpus=float(head["rayStartParams"]["num-cpus"]), gpus=0, memory=8e9)
    assert Wanted().on([nothing, node]).fit(node) == 1
    assert f"ray=={spec['rayVersion']}" in (ROOT / "constraints.txt").read_text().splitlines()


def test_the_image_has_what_kuberay_asks_its_pods_with() -> None:
    recipe = (DEPLOY / "Dockerfile").read_text()
    assert re.search(r"apt-get install .*\bwget\b", recipe)
    assert "'ray[default]'" in recipe
    home = re.search(r"QSWEEP_HOME=(\S+)", recipe)
    _, cluster = documents("kuberay.yaml")
    (mount,) = cluster["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["volumeMounts"]
    assert home is not None
    assert home[1] == mount["mountPath"]
    assert "--uid 1000" in recipe


def test_the_images_recipe_copies_what_is_there_and_what_the_ignore_file_lets_through() -> None:
    recipe = (DEPLOY / "Dockerfile").read_text()
    copied = [word for line in re.findall(r"^COPY (.*)$", recipe, re.MULTILINE) for word in line.split()[:-1]]
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert set(copied) == allowed
    assert all((ROOT / name).exists() for name in copied)
    extras = re.search(r"'\.\[([^\]]*)\]'", recipe)
    assert extras is not None
    declared = (ROOT / "pyproject.toml").read_text()
    assert all(re.search(rf"^{extra} = \[", declared, re.MULTILINE) for extra in extras[1].split(","))


@pytest.mark.parametrize("script", sorted((DEPLOY / "slurm").iterdir()), ids=lambda script: script.name)
def test_the_scripts_are_shell(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)

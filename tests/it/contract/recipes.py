"""Holds files of YAML against the schemas of Kubernetes, Compose and GitHub's workflows; what is a part of an object is put
into one. Exits 0 without the packages (`pip install --target target/python kubernetes-validate check-jsonschema`), but says
so."""

import pathlib
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[3] / "target" / "python"))
try:
    import jsonschema
    import kubernetes_validate
    from check_jsonschema.builtin_schemas import get_builtin_schema
    from ruamel.yaml import YAML
except ImportError as error:
    print("skipped:", error)
    sys.exit(0)

# 1.28 wants onPodConditions; the last is the newest that the package has.
VERSIONS = ["1.26", "1.28", "1.29", kubernetes_validate.latest_version()]


def whole(part):
    """The object of Kubernetes that this is, or is a part of."""
    if "kind" in part:
        return part
    metadata = {"name": "app"}
    if "annotations" in part:
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata | part}
    pod = {"containers": [{"name": "app", "image": "app"}]} | part
    template = {"metadata": {"labels": metadata}, "spec": pod}
    spec = {"selector": {"matchLabels": metadata}, "template": template}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec}


def config(path):
    """Compose's own word, where it is there."""
    for compose in ["docker", "compose"], ["docker-compose"]:
        try:
            subprocess.run([*compose, "version"], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            continue
        subprocess.run([*compose, "-f", path, "config", "--quiet"], check=True)
        return "and by its own config"
    return "skipped: no docker compose"


def check(path):
    # Of YAML 1.2, in which a workflow's `on` is no truth value.
    document = YAML(typ="safe", pure=True).load(pathlib.Path(path))
    for key, schema in ("services", "compose-spec"), ("jobs", "github-workflows"):
        if key in document:
            jsonschema.validate(document, get_builtin_schema(f"vendor.{schema}"))
            return [schema, config(path)] if key == "services" else [schema]
    for version in VERSIONS:
        kubernetes_validate.validate(whole(document), version, strict=True)
    return ["Kubernetes", *VERSIONS]


seen = [check(path) for path in sys.argv[1:]]
for path, held_against in zip(sys.argv[1:], seen):
    print(pathlib.Path(path).read_text().splitlines()[0], *held_against, sep=", ")
for schema in "Kubernetes", "compose-spec", "github-workflows":
    assert any(schema in held_against for held_against in seen), schema

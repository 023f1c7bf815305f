"""Holds files of YAML against Kubernetes' schemas; what is a part of an object is put into one. Exits 0 without the package
kubernetes-validate (`pip install --target target/python kubernetes-validate`), but says so."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[3] / "target" / "python"))
try:
    import kubernetes_validate
    import yaml
except ImportError as error:
    print("skipped:", error)
    sys.exit(0)

# 1.28 wants onPodConditions; the last is the newest that the package has.
VERSIONS = ["1.26", "1.28", "1.29", kubernetes_validate.latest_version()]


def whole(part):
    """The object that this is, or is a part of; None: it is nothing of Kubernetes."""
    if "kind" in part:
        return part
    metadata = {"name": "app"}
    if "annotations" in part:
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata | part}
    if "initContainers" in part:
        pod = {"containers": [{"name": "app", "image": "app"}]} | part
        template = {"metadata": {"labels": metadata}, "spec": pod}
        spec = {"selector": {"matchLabels": metadata}, "template": template}
        return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec}
    return None


checked = 0
for path in sys.argv[1:]:
    text = pathlib.Path(path).read_text()
    document = whole(yaml.safe_load(text))
    for version in VERSIONS if document else []:
        kubernetes_validate.validate(document, version, strict=True)
        checked += 1
    if not document:
        print("YAML, but not Kubernetes':", text.splitlines()[0])
assert checked >= 4 * len(VERSIONS), checked
print(checked, "checked, with", *VERSIONS)

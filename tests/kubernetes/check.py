"""Checks manifests of Kubernetes, and prints each resource as a line of JSON.

    check.py FOLDER

Each file in the folder belongs to the kustomization beside it. Each resource fits the schemas of the
versions below, without unknown fields. A patch is a part of a resource, so it has no schema.
"""

import json
import sys
from pathlib import Path

import kubernetes_validate
import yaml

VERSIONS = ["1.33", "1.37"]
KUSTOMIZATION = "kustomization.yaml"


def documents(path):
    return [it for it in yaml.safe_load_all(path.read_text()) if it is not None]


def main(folder):
    problems = []
    for kustomization in sorted(folder.rglob(KUSTOMIZATION)):
        beside = kustomization.parent
        (wanted,) = documents(kustomization)
        patches = {it["path"] for it in wanted.get("patches", [])}
        resources = set(wanted.get("resources", []))
        for name in sorted(patches | resources):
            if not (beside / name).exists():
                problems.append(f"{kustomization}: {name} does not exist")
        for path in sorted(beside.glob("*.yaml")):
            if path.name == KUSTOMIZATION or path.name in patches:
                continue
            if path.name not in resources:
                problems.append(f"{path}: {kustomization} does not name it")
            for resource in documents(path):
                for version in VERSIONS:
                    try:
                        kubernetes_validate.validate(resource, version, strict=True)
                    except kubernetes_validate.ValidationError as error:
                        place = ".".join(str(part) for part in error.path)
                        problems.append(f"{path}: {version}: {place}: {error.message}")
                print(json.dumps(resource))
    for problem in problems:
        print(problem, file=sys.stderr)
    sys.exit(bool(problems))


main(Path(sys.argv[1]))

"""Reads an npm lock file and reports its packages, their licences and who depends on the most.

    python3 report.py package-lock.json report.json

Prints as it goes and writes the report as JSON. Standard library only, and the same bytes on every machine.
"""

import json
import sys
from collections import Counter


def name_of(path: str) -> str:
    """`node_modules/a/node_modules/@b/c` is the package `@b/c`."""
    return path.rsplit("node_modules/", 1)[-1]


def main(lock_file: str, report_file: str) -> None:
    with open(lock_file, encoding="utf-8") as file:
        lock = json.load(file)

    entries = {path: entry for path, entry in lock["packages"].items() if "node_modules/" in path and not entry.get("link")}
    licences: Counter[str] = Counter()
    fan_outs = []
    for path, entry in sorted(entries.items()):
        licences[str(entry.get("license", "not stated"))] += 1
        fan_out = len(entry.get("dependencies", {})) + len(entry.get("optionalDependencies", {}))
        fan_outs.append((fan_out, name_of(path), entry["version"]))

    print(f"{len(entries)} packages", flush=True)
    print(f"{len(licences)} distinct licences", flush=True)
    for licence, count in sorted(licences.items(), key=lambda item: (-item[1], item[0])):
        print(f"  {count:5d}  {licence}", flush=True)

    largest = sorted(fan_outs, key=lambda item: (-item[0], item[1], item[2]))[:10]
    print("largest dependency fan-outs", flush=True)
    for fan_out, name, version in largest:
        print(f"  {fan_out:5d}  {name} {version}", flush=True)

    report = {
        "packages": len(entries),
        "licences": dict(sorted(licences.items())),
        "largest_fan_outs": [{"package": name, "version": version, "dependencies": fan_out} for fan_out, name, version in largest],
    }
    with open(report_file, "w", encoding="utf-8") as file:
        json.dump(report, file, indent=2)
        file.write("\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])

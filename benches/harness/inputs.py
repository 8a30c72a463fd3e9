"""Folders of files with made events. The same arguments make the same bytes."""

import os
import shutil

from servers import run

# The events of a file of `task_runner generate` are of one day. A large file is joined from such
# files, so that its events are of thirty days.
PARTS = 40
DAYS = 30
# Readings of a site.
SITE_READINGS = 100
HEAD, BETWEEN, TAIL = b'{"vehicle_events": [', b", ", b"]}"


class Inputs:
    def __init__(self, task_runner, folder):
        self.task_runner, self.folder = task_runner, folder

    def files(self, files, records, vehicles=2_000, shape="document", compress="none", prefix="files"):
        """A folder with this many files, each with this many events."""
        name = f"{prefix}-{files}x{records}-{vehicles}-{shape}-{compress}"
        folder = os.path.join(self.folder, name)
        if not os.path.exists(folder):
            os.makedirs(folder)
            run([
                self.task_runner, "generate", "--dir", folder, "--files", str(files), "--records", str(records),
                "--vehicles", str(vehicles), "--days", str(DAYS), "--format", shape, "--compress", compress,
            ])  # fmt: skip
        return folder

    def large(self, events, shape="document", repeat=1):
        """A folder with one file, which has the events `repeat` times, each as a separate record."""
        name = f"large-{events}x{repeat}-{shape}"
        folder = os.path.join(self.folder, name)
        if os.path.exists(folder):
            return folder
        parts = self.files(PARTS, events // PARTS, shape=shape, prefix="parts")
        os.makedirs(folder)
        ending = "ndjson" if shape == "ndjson" else "json"
        with open(os.path.join(folder, f"vehicle_events_{name}.{ending}"), "wb") as out:
            if shape == "document":
                out.write(HEAD)
            for time in range(repeat):
                for number, part in enumerate(sorted(os.listdir(parts))):
                    with open(os.path.join(parts, part), "rb") as file:
                        text = file.read()
                    if shape == "document":
                        text = (BETWEEN if time or number else b"") + text[len(HEAD) : -len(TAIL)]
                    out.write(text)
            if shape == "document":
                out.write(TAIL)
        shutil.rmtree(parts)
        return folder

    def readings(self, count, shape):
        """A folder with one file of readings: with numbers, with numbers in strings, or below their sites."""
        folder = os.path.join(self.folder, f"readings-{count}-{shape}")
        if os.path.exists(folder):
            return folder
        os.makedirs(folder)
        quote = '"' if shape == "strings" else ""
        with open(os.path.join(folder, f"{shape}.json"), "w") as out:
            out.write('{"sites": [' if shape == "elements" else '{"readings": [')
            for first in range(0, count, SITE_READINGS):
                in_record = "" if shape == "elements" else f', "site": "site {first}"'
                texts = ", ".join(
                    f'{{"sensor": "s{at % 500}", "at": {quote}{1_700_000_000_000 + at * 1_003}{quote}, '
                    f'"count": {quote}{at}{quote}, "value": {quote}{at % 90}.25{quote}, '
                    f'"price": {quote}{at % 10_000}.4975{quote}, "ok": {quote}true{quote}{in_record}}}'
                    for at in range(first, min(first + SITE_READINGS, count))
                )
                if shape == "elements":
                    texts = f'{{"name": "site {first}", "readings": [{texts}]}}'
                out.write((", " if first else "") + texts)
            out.write("]}")
        return folder

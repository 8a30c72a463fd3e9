"""Measures the distance of the cores, and makes runs while the cores are near.

The host of a virtual machine moves its cores: what a cache line takes from one to the other and back
may be three or four times more a minute later, and a database server whose connections share latches
is then a third slower. A run in the one state says nothing about a run in the other.
"""

import os
import time

from measure import json_lines

# Cores are near if their distance is at most this many times the smallest one so far. Seen on one
# machine: 28 ns for two threads of one core, 45 to 65 ns for two near cores, 320 to 360 ns for far
# ones.
NEAR = 4
# Seconds to wait for near cores before a run, and attempts of a run after which the cores were far.
WAIT_SECONDS = 15
ATTEMPTS = 3
# Longest time of all waits and repeated runs, in seconds.
PATIENCE_SECONDS = 600


class Cores:
    def __init__(self, ceiling, patient):
        self.ceiling = ceiling
        self.patience_seconds = PATIENCE_SECONDS if patient else 0
        self.nearest = float("inf")

    def apart(self):
        """Nanoseconds of a round trip between two cores; 0 if there is only one core."""
        if os.cpu_count() < 2:
            return 0.0
        found = json_lines([self.ceiling, "cores"])[0]["round_trip_ns"]
        self.nearest = min(self.nearest, found)
        return found

    def wait(self):
        """Waits until the cores are near, or the limit is over. Returns their distance."""
        began = time.monotonic()
        deadline = began + min(WAIT_SECONDS, self.patience_seconds)
        while (apart := self.apart()) > NEAR * self.nearest and time.monotonic() < deadline:
            time.sleep(0.2)
        self.patience_seconds -= time.monotonic() - began
        return apart

    def steady(self, run):
        """The result of a run with `cores_ns`, the larger distance of before and after the run. If the
    cores were far, it runs again. Of several runs, the one with the nearest cores counts."""
        results = []
        while True:
            before = self.wait()
            began = time.monotonic()
            result = run()
            result["cores_ns"] = max(before, self.apart())
            results.append(result)
            if result["cores_ns"] <= NEAR * self.nearest or len(results) == ATTEMPTS or self.patience_seconds <= 0:
                break
            self.patience_seconds -= time.monotonic() - began
        return min(results, key=lambda result: result["cores_ns"])

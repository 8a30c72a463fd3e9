"""How far the cores are from each other, and runs that are made while they are near.

The host of a virtual machine moves its cores: what a cache line takes from one to the other and back
may be three or four times more a minute later, and a database server whose connections share latches
is then a third slower. A run in the one state says nothing about a run in the other.
"""

import os
import time

from measure import json_lines

# Up to this many times the nearest that was seen counts as near: 28 ns where both are threads of one
# core, 45 to 65 where they are not, and 320 to 360 in the far state were seen on one machine.
NEAR = 4
# How long the near state is waited for before a run, and how often a run is made that ended outside of it.
WAIT_SECONDS = 15
ATTEMPTS = 3
# What waits and repeated runs may take of all the time.
PATIENCE_SECONDS = 600


class Cores:
    def __init__(self, ceiling, patient):
        self.ceiling = ceiling
        self.patience_seconds = PATIENCE_SECONDS if patient else 0
        self.nearest = float("inf")

    def apart(self):
        """Nanoseconds of a round trip between two cores; 0 where there is one."""
        if os.cpu_count() < 2:
            return 0.0
        found = json_lines([self.ceiling, "cores"])[0]["round_trip_ns"]
        self.nearest = min(self.nearest, found)
        return found

    def wait(self):
        """Waits until the cores are near, or for long enough; returns how far they are."""
        began = time.monotonic()
        deadline = began + min(WAIT_SECONDS, self.patience_seconds)
        while (apart := self.apart()) > NEAR * self.nearest and time.monotonic() < deadline:
            time.sleep(0.2)
        self.patience_seconds -= time.monotonic() - began
        return apart

    def steady(self, run):
        """The result of a run with `cores_ns`, the farther of before and after. It is run again where
        the cores were far, and of several runs the one with the nearest cores counts."""
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

"""Measures a command: its time, its processor time and that of servers, and its anonymous memory."""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time

TICKS = os.sysconf("SC_CLK_TCK")
MB = 1e6


def cpu_seconds(pid):
    """User and system time of a process and its threads."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def memory_kb(pid, name):
    """A value of /proc/PID/status, such as RssAnon or VmHWM. 0 for a process that has ended."""
    try:
        with open(f"/proc/{pid}/status") as file:
            for line in file:
                if line.startswith(name + ":"):
                    return int(line.split()[1])
    except (FileNotFoundError, ProcessLookupError):
        pass
    return 0


class Watch(threading.Thread):
    """Reads the memory of processes every few milliseconds. `peaks` has the largest values, in MB."""

    def __init__(self, pids, every=0.01):
        super().__init__(daemon=True)
        self.pids, self.every = pids, every
        self.peaks = dict.fromkeys(pids, 0.0)
        self.over = threading.Event()
        self.start()

    def run(self):
        while not self.over.wait(self.every):
            for name, pid in self.pids.items():
                self.peaks[name] = max(self.peaks[name], memory_kb(pid, "RssAnon") * 1024 / MB)

    def end(self):
        self.over.set()
        self.join()
        return self.peaks


def measured(command, servers, environment=None, confine=None):
    """Runs a command to its end. Returns seconds, processor seconds of it (its children included)
    and of each server, and the most anonymous memory of each, in MB."""
    before = {server.name: cpu_seconds(server.pid) for server in servers}
    with tempfile.TemporaryFile() as output:
        began = time.monotonic()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, **(environment or {})},
            preexec_fn=confine,
        )
        watch = Watch({"own": process.pid, **{server.name: server.pid for server in servers}})
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        peaks = watch.end()
        if process.returncode != 0:
            output.seek(0)
            said = output.read().decode(errors="replace")[-3000:]
            sys.exit(f"scripts/bench: {' '.join(command)}: exit code {process.returncode}\n{said}")
    cpu = {server.name: cpu_seconds(server.pid) - before[server.name] for server in servers}
    return {"seconds": seconds, "cpu": {"own": usage.ru_utime + usage.ru_stime, **cpu}, "memory_mb": peaks}


def per_event(result, events):
    """A result with the rate, and with the processor time of an event."""
    result["events"] = events
    result["rate"] = events / result["seconds"]
    result["cpu_us"] = {name: seconds * 1e6 / events for name, seconds in result.pop("cpu").items()}
    return result


def json_lines(command):
    """Runs a program that prints a line of JSON for each run."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"scripts/bench: {' '.join(command)}: exit code {done.returncode}\n{done.stderr[-3000:]}")
    return [json.loads(line) for line in done.stdout.splitlines()]

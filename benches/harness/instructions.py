"""What the stages of the hot path take in instructions, by callgrind: the same number on each run, where
time has noise. What is judged is their ratio to simd-json alone on the same bytes, since another
compiler or processor changes all of them."""

import re
import subprocess

from servers import program

EVENTS = 20_000
# Limits: instructions of a stage, divided by those of bare simd-json. Measured: 0.30, 0.98, 1.35,
# 0.33 and 0.64. `bind`, which is optimised for size, was 0.56 before. It was 0.22 with the engine's
# former MySQL client, which did not allocate each value (docs/decisions/mysql-driver.md).
LIMITS = {"cut": 0.30, "parse": 1.25, "parse+frame": 1.7, "decode": 0.41, "bind": 0.66}


def instructions(ceiling):
    """Instructions for an event, by stage."""
    found = {}
    for stage in ("to_tape", *LIMITS):
        # The second round only runs the stage again, so the difference of two counts is the stage.
        once, again = (counted(ceiling, stage, rounds) for rounds in (1, 2))
        found[stage] = (again - once) / EVENTS
    return found


def counted(ceiling, stage, rounds):
    command = [program("valgrind"), "--tool=callgrind", "--callgrind-out-file=/dev/null", ceiling, "parse"]
    command += ["--events", str(EVENTS), "--rounds", str(rounds), "--only", stage]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"scripts/bench: {' '.join(command)}: exit code {done.returncode}\n{done.stderr[-3000:]}")
    return int(re.search(r"Collected : (\d+)", done.stderr)[1])


def rows(found):
    """(stage, instructions for an event, ratio to simd-json, limit of the ratio)."""
    for stage, count in found.items():
        limit = LIMITS.get(stage)
        yield stage, f"{count:,.0f}", f"{count / found['to_tape']:.2f}", "" if limit is None else f"{limit:.2f}"


def excess(found):
    """The stages that take more than their limit."""
    return [stage for stage, limit in LIMITS.items() if found[stage] > limit * found["to_tape"]]

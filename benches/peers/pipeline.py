"""The pipeline that an experienced user would write in Python: files, Redis Streams, MySQL.

    pipeline.py DIR --redis HOST:PORT --database HOST:PORT/NAME

One process reads the files and publishes 500 events an entry, 16 entries a pipeline; two workers
read entries, insert their events with one executemany and commit, then ack. orjson, redis with
hiredis, and mysqlclient, whose executemany sends one multi-row INSERT. The table is that of the
Python original. The queue is bounded by waiting, like the engine's.

It delivers at least once: a worker that dies between commit and ack leaves duplicates. There is no
ledger, no rejects, no file history. It is here to be compared with, not to be used.
"""

import argparse
import multiprocessing
import os
import time

import MySQLdb
import orjson
import redis

STREAM, GROUP = "events", "workers"
EVENTS_PER_ENTRY = 500
ENTRIES_PER_PIPELINE = 16
# About 64 MiB of entries, as much as the engine's queue.
ENTRIES_MAX = 600
WORKERS = 2

COLUMNS = ("vehicle_id", "event_time", "event_source", "event_type", "event_value", "event_extra_data")
INSERT = f"INSERT INTO vehicle_events ({', '.join(COLUMNS)}) VALUES (%s, %s, %s, %s, %s, %s)"
CREATE = """CREATE TABLE IF NOT EXISTS vehicle_events (
    id INT NOT NULL AUTO_INCREMENT PRIMARY KEY, vehicle_id VARCHAR(255), event_time DATETIME,
    event_source VARCHAR(255), event_type VARCHAR(255), event_value VARCHAR(255),
    event_extra_data VARCHAR(255))"""


def connect_redis(address):
    host, port = address.split(":")
    return redis.Redis(host=host, port=int(port))


def connect_database(address):
    server, name = address.split("/")
    host, port = server.split(":")
    return MySQLdb.connect(host=host, port=int(port), user="root", database=name, charset="utf8mb4")


def rows_of(events):
    """The events of a file as rows, made as in the original program."""
    dumps = orjson.dumps
    return [
        (
            event["vehicle_id"],
            event["event_time"].replace("T", " ").rstrip("Z"),
            event["event_source"],
            event["event_type"],
            event["event_value"],
            dumps(event.get("event_extra_data", {})).decode(),
        )
        for event in events
    ]


def publish(directory, address):
    client = connect_redis(address)
    published = 0
    for name in sorted(os.listdir(directory)):
        with open(os.path.join(directory, name), "rb") as file:
            events = orjson.loads(file.read())["vehicle_events"]
        pipeline = client.pipeline(transaction=False)
        for first in range(0, len(events), EVENTS_PER_ENTRY):
            rows = rows_of(events[first : first + EVENTS_PER_ENTRY])
            pipeline.xadd(STREAM, {"rows": orjson.dumps(rows)})
            if len(pipeline) >= ENTRIES_PER_PIPELINE:
                pipeline.execute()
        pipeline.execute()
        published += len(events)
        while client.xlen(STREAM) > ENTRIES_MAX:
            time.sleep(0.002)
    return published


def work(number, redis_address, database_address):
    client, database = connect_redis(redis_address), connect_database(database_address)
    cursor = database.cursor()
    while True:
        reply = client.xreadgroup(GROUP, f"worker-{number}", {STREAM: ">"}, count=4, block=10_000)
        if not reply:
            raise SystemExit("no entry arrived for ten seconds")
        ids, ended = [], False
        for entry, fields in reply[0][1]:
            if b"end" in fields:
                ended = True
            else:
                cursor.executemany(INSERT, orjson.loads(fields[b"rows"]))
            ids.append(entry)
        database.commit()
        pipeline = client.pipeline(transaction=False)
        pipeline.xack(STREAM, GROUP, *ids)
        pipeline.xdel(STREAM, *ids)
        if ended:
            # For the other worker.
            pipeline.xadd(STREAM, {"end": b""})
        pipeline.execute()
        if ended:
            return


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory")
    parser.add_argument("--redis", required=True, metavar="HOST:PORT")
    parser.add_argument("--database", required=True, metavar="HOST:PORT/NAME")
    arguments = parser.parse_args()

    with connect_database(arguments.database) as database:
        database.cursor().execute(CREATE)
    client = connect_redis(arguments.redis)
    client.delete(STREAM)
    client.xgroup_create(STREAM, GROUP, id="0", mkstream=True)

    addresses = (arguments.redis, arguments.database)
    workers = [multiprocessing.Process(target=work, args=(number, *addresses)) for number in range(WORKERS)]
    for worker in workers:
        worker.start()
    published = publish(arguments.directory, arguments.redis)
    client.xadd(STREAM, {"end": b""})
    for worker in workers:
        worker.join()
    if any(worker.exitcode for worker in workers):
        raise SystemExit("a worker failed")
    client.delete(STREAM)
    print(published)


if __name__ == "__main__":
    main()

"""Writes files with the libraries of real producers, and the values that were given to these libraries.

    python make.py DIRECTORY SEED

Each file has the form of a directory in examples/datasets, whose definition loads it. `expected.json`
has, for each table, names of columns and the rows in the order of the file. A value is a text as the
database prints it, or null; a value of a JSON column is that value.
"""

import json
import random
import struct
import sys
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path

import numpy
import pyogrio.raw
from boto3.dynamodb.types import TypeSerializer
from bson import Decimal128, Int64, ObjectId
from bson.json_util import CANONICAL_JSON_OPTIONS, dumps
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from google.protobuf.json_format import MessageToJson
from google.transit import gtfs_realtime_pb2
from opentelemetry.proto.logs.v1 import logs_pb2

COUNT = 200
SINCE = datetime(2020, 2, 28, tzinfo=timezone.utc)


def integer(bits):
    """A signed integer. Most are above 2^53 if there are so many bits."""
    return random.getrandbits(bits) - (1 << (bits - 1))


def digits(places, most):
    """A decimal with at most this many digits, some of them after the point."""
    return Decimal(random.randrange(10**most)).scaleb(-places)


def moment(unit):
    """A time in whole units of so many microseconds."""
    micros = random.randrange(10 * 365 * 86_400 * 1_000_000)
    return SINCE + timedelta(microseconds=micros - micros % unit)


def shown(value):
    """A value as text, as the database prints it."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    if isinstance(value, datetime):
        return value.astimezone(timezone.utc).strftime("%Y-%m-%d %H:%M:%S.%f")
    return str(value)


def mongoexport(path):
    rows = []
    with open(path / "mongo_trips.json", "w") as file:
        for at in range(COUNT):
            row = {
                "_id": str(ObjectId(random.randbytes(12))), "driver": f"d-{at} \u00e9\"\\", "km": float(digits(2, 6)),
                "stops": integer(32), "odometer": integer(64), "toll": digits(2, 11), "began": moment(1_000),
            }  # fmt: skip
            rows.append(row)
            kinds = {"_id": ObjectId, "stops": int, "odometer": Int64, "toll": Decimal128}
            document = {name: kinds.get(name, lambda value: value)(value) for name, value in row.items()}
            file.write(dumps(document, json_options=CANONICAL_JSON_OPTIONS) + "\n")
    return "mongo_trips", rows


def gtfs_realtime(path):
    feed = gtfs_realtime_pb2.FeedMessage()
    feed.header.gtfs_realtime_version = "2.0"
    rows = []
    for at in range(COUNT):
        row = {
            "entity": f"v{at}", "trip_id": f"t-{random.randrange(1_000)}",
            "start_date": moment(1).date(),
            # Numbers of 32 bits: six digits are exact.
            "latitude": float(digits(4, 6)), "longitude": float(digits(4, 6)),
            "bearing": random.choice([None, float(digits(1, 4))]), "timestamp": moment(1_000_000),
            "status": random.choice(["INCOMING_AT", "STOPPED_AT", "IN_TRANSIT_TO"]),
        }  # fmt: skip
        rows.append(row)
        entity = feed.entity.add(id=row["entity"])
        vehicle = entity.vehicle
        vehicle.trip.trip_id = row["trip_id"]
        vehicle.trip.start_date = row["start_date"].strftime("%Y%m%d")
        vehicle.position.latitude, vehicle.position.longitude = row["latitude"], row["longitude"]
        if row["bearing"] is not None:
            vehicle.position.bearing = row["bearing"]
        vehicle.timestamp = int(row["timestamp"].timestamp())
        vehicle.current_status = vehicle.VehicleStopStatus.Value(row["status"])
    (path / "vehicle_positions.pb.json").write_text(MessageToJson(feed))
    return "vehicle_positions", rows


def otlp_logs(path):
    rows = []
    with open(path / "otlp_logs.jsonl", "w") as file:
        while len(rows) < COUNT:
            logs = logs_pb2.LogsData()
            for _ in range(random.randrange(1, 4)):
                resource = logs.resource_logs.add()
                for _ in range(random.randrange(1, 4)):
                    scope = resource.scope_logs.add()
                    for _ in range(random.randrange(4)):
                        at = moment(1)
                        nanos = (at - datetime.fromtimestamp(0, timezone.utc)) // timedelta(microseconds=1) * 1_000
                        number = integer(64)
                        attributes = [{"key": "n", "value": {"intValue": str(number)}}]
                        row = {
                            "at": at, "severity": random.randrange(1, 25), "body": f"record {len(rows)}\n",
                            "attributes": attributes,
                        }  # fmt: skip
                        rows.append(row)
                        record = scope.log_records.add(time_unix_nano=nanos + random.randrange(1_000))
                        record.severity_number = row["severity"]
                        record.body.string_value = row["body"]
                        record.attributes.add(key="n").value.int_value = number
            file.write(MessageToJson(logs, indent=None, use_integers_for_enums=True) + "\n")
    return "otlp_logs", rows


def cloudevents(path):
    rows, events = [], []
    for at in range(COUNT):
        row = {
            "event_id": f"e-{at}", "source": "/fleet/eu", "type": "com.example.speed", "time": moment(1),
            "subject": random.choice([None, "v-1"]), "vehicle": f"v-{at}", "speed": float(digits(3, 6)),
        }  # fmt: skip
        rows.append(row)
        zone = timezone(timedelta(minutes=random.choice([0, 60, 330, -210])))
        attributes = {
            "specversion": "1.0", "id": row["event_id"], "source": row["source"], "type": row["type"],
            "time": row["time"].astimezone(zone), "datacontenttype": "application/json",
        }  # fmt: skip
        if row["subject"] is not None:
            attributes["subject"] = row["subject"]
        event = CloudEvent(attributes=attributes, data={"vehicle": row["vehicle"], "speed": row["speed"]})
        events.append(JSONFormat().write(event).decode())
    (path / "cloudevents_batch.json").write_text("[" + ",\n".join(events) + "]")
    return "cloudevents", rows


def dynamodb(path):
    rows = []
    serialize = TypeSerializer().serialize
    with open(path / "dynamodb_vehicles_01.json", "w") as file:
        for at in range(COUNT):
            row = {
                "pk": f"vehicle#{at}", "odometer": digits(2, 19), "active": random.random() < 0.5,
                "seats": random.choice([None, integer(60)]), "tags": [f"t{at}"],
            }  # fmt: skip
            rows.append(row)
            item = {name: value for name, value in row.items() if value is not None} | {"tags": {f"t{at}"}}
            file.write(json.dumps({"Item": {name: serialize(value) for name, value in item.items()}}) + "\n")
    return "dynamodb_vehicles", rows


def geojson(path):
    rows, points = [], []
    for at in range(COUNT):
        place = [float(digits(9, 11)), float(digits(9, 11))]
        rows.append({
            "geometry_type": "Point", "coordinates": place, "road": f"A {at}", "lanes_closed": integer(32),
            "begins": moment(1).date(), "length_km": float(digits(2, 4)),
        })  # fmt: skip
        # Well-known binary: little endian, a point.
        points.append(struct.pack("<BIdd", 1, 1, *place))
    kinds = {"road": object, "lanes_closed": "int32", "begins": "datetime64[D]", "length_km": "float64"}
    pyogrio.raw.write(
        path / "roadworks.geojson", numpy.array(points, dtype=object),
        [numpy.array([row[name] for row in rows], dtype=kind) for name, kind in kinds.items()],
        list(kinds), geometry_type="Point", crs="EPSG:4326", driver="GeoJSON",
    )  # fmt: skip
    return "roadworks", rows


def main():
    path = Path(sys.argv[1])
    random.seed(sys.argv[2])
    expected = {}
    for make in (mongoexport, gtfs_realtime, otlp_logs, cloudevents, dynamodb, geojson):
        table, rows = make(path)
        columns = list(rows[0])
        texts = [[value if isinstance(value, list) else shown(value) for value in row.values()] for row in rows]
        expected[table] = {"columns": columns, "rows": texts, "definition": make.__name__}
    print(json.dumps(expected))


main()

"""What a client author writes on top of the package that a generator made for `examples/machine.py`."""

import sys

from filling_machine_client import AuthenticatedClient, Client
from filling_machine_client.api.db import export_backup, import_restore
from filling_machine_client.api.stations import (
    create_station,
    delete_station,
    get_station,
    list_station_history,
    list_stations,
    update_station,
)
from filling_machine_client.models import (
    AuditRecord,
    Deletion,
    HTTPFailure,
    HTTPProblem,
    ImportRestoreBody,
    RestoreReport,
    Station,
    StationCreate,
    StationKind,
    StationUpdate,
)
from filling_machine_client.types import File


def main(address: str, token: str) -> None:
    with Client(base_url=address) as client:
        created = create_station.sync_detailed(
            client=client, x_user="ana", body=StationCreate(name="Sealer 1", kind=StationKind.CAPPING)
        )
        station = created.parsed
        assert isinstance(station, Station), station
        assert (created.status_code, station.name, station.kind) == (201, "Sealer 1", StationKind.CAPPING)

        read = get_station.sync_detailed(station.id, client=client)
        etag = read.headers["ETag"]
        assert (read.parsed, etag) == (station, created.headers["ETag"])
        assert get_station.sync_detailed(station.id, client=client, if_none_match=etag).status_code == 304

        change = StationUpdate(name="Sealer 2")
        updated = update_station.sync_detailed(station.id, client=client, x_user="ben", if_match=etag, body=change)
        assert isinstance(updated.parsed, Station), updated
        assert updated.parsed.name == "Sealer 2"
        late = update_station.sync_detailed(station.id, client=client, x_user="eve", if_match=etag, body=change)
        assert isinstance(late.parsed, HTTPFailure), late
        assert (late.status_code, late.parsed.detail) == (412, "The record was changed meanwhile; read it again")

        refused = update_station.sync(station.id, client=client, x_user="ben", body=StationUpdate(name=""))
        assert isinstance(refused, HTTPFailure), refused
        assert isinstance(refused.detail, list), refused
        problem: HTTPProblem = refused.detail[0]
        assert problem.loc == ["body", "name"]

        page = list_stations.sync_detailed(
            client=client, name_startswith="Sealer", order_by="-name", limit=1, count=True
        )
        assert isinstance(page.parsed, list), page
        stations: list[Station] = page.parsed
        assert ([found.name for found in stations], page.headers["X-Total-Count"]) == (["Sealer 2"], "1")

        history = list_station_history.sync(station.id, client=client)
        assert isinstance(history, list), history
        trail: list[AuditRecord] = history
        assert [(row.actor, row.operation) for row in trail] == [("ben", "update"), ("ana", "create")]

        deleted = delete_station.sync(station.id, client=client, x_user="ana", if_match=updated.headers["ETag"])
        assert isinstance(deleted, Deletion), deleted
        assert get_station.sync_detailed(station.id, client=client).status_code == 404

    with AuthenticatedClient(base_url=address, token=token) as admin:
        backup = export_backup.sync(client=admin)
        assert isinstance(backup, File), backup
        report = import_restore.sync(
            client=admin, dry_run=True, body=ImportRestoreBody(file=File(payload=backup.payload, file_name="backup"))
        )
        assert isinstance(report, RestoreReport), report
        assert (report.restored, report.tables.additional_properties["station"].rows_after) == (False, 3)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Snapshots: migrate to a folder, its progress, and its cancellation."""

from __future__ import annotations

from stratovirt.config.process import Migrate
from stratovirt.monitor.registry import NoArguments, command
from stratovirt.monitor.schema import MIGRATION_STATUS, Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stratovirt.monitor.session import Session

RAM = Struct("MigrationStats", {"transferred": "int", "remaining": "int", "total": "int"})
INFO = Struct("MigrationInfo", {"status": MIGRATION_STATUS, "ram?": RAM, "error-desc?": "str"})


@command("migrate", Migrate)
def migrate(session: Session, arguments: Migrate) -> object:
    """Begin a snapshot of the paused machine; query-migrate tells how far it has come."""
    session.vm.save_to(arguments.place)
    return {}


@command("query-migrate", answer=INFO)
def query_migrate(session: Session, _arguments: NoArguments) -> object:
    """Say how far the last snapshot has come, in bytes of memory."""
    snapshot = session.vm.saving.last
    if snapshot is None:
        return {"status": "none"}
    info: dict[str, object] = {
        "status": snapshot.status,
        "ram": {
            "transferred": snapshot.transferred,
            "remaining": snapshot.remaining,
            "total": snapshot.total,
        },
    }
    if snapshot.error:
        info["error-desc"] = snapshot.error
    return info


@command("migrate_cancel")
def migrate_cancel(session: Session, _arguments: NoArguments) -> object:
    """Stop the snapshot that is being written; nothing of it stays."""
    session.vm.saving.cancel()
    return {}

"""The snapshot that a machine starts from (-incoming): reads, checks and applies it."""

from __future__ import annotations

import os

from stratovirt._native.memory_file import MemoryFile
from stratovirt._native.ram_mapping import RamMapping
from stratovirt.config.errors import ConfigError
from stratovirt.config.vm_config import VmConfig
from stratovirt.snapshot.encoding import decode
from stratovirt.snapshot.errors import SnapshotError
from stratovirt.snapshot.files import MEMORY, STATE, open_folder, open_inside
from stratovirt.snapshot.machine import PATH, MachineState, check_fits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stratovirt.accel.base import Accelerator
    from stratovirt.machine.board import Board
    from stratovirt.snapshot.tree import Tree


class Template:
    """The snapshot in the folder of -incoming; any number of machines may use one at a time.

    Raises SnapshotError when it is damaged or its options differ from `config`'s.
    """

    def __init__(self, config: VmConfig) -> None:
        assert config.incoming is not None
        self.source = f"-incoming {config.incoming}"
        self.memory_fd = folder_fd = -1
        try:
            folder_fd = open_folder(config.incoming.removeprefix("file:"))
            self._tree = _read_state(folder_fd)
            machine = self._tree.take(PATH, MachineState)
            check_fits(machine.options, config)
            self.memory_fd = self._open_memory(folder_fd, config, machine.memory_bytes)
        except OSError as error:
            self.close()
            name = os.path.basename(error.filename or "")
            raise SnapshotError(f"{self.source}: {name}: {error.strerror}") from error
        except (ConfigError, SnapshotError) as error:
            self.close()
            raise SnapshotError(f"{self.source}: {error}") from error
        finally:
            if folder_fd >= 0:
                os.close(folder_fd)

    def _open_memory(self, folder_fd: int, config: VmConfig, saved_bytes: int) -> int:
        fd = open_inside(folder_fd, MEMORY)
        size = os.fstat(fd).st_size
        if size != config.memory.size or size != saved_bytes:
            os.close(fd)
            raise SnapshotError(f"memory has {size} bytes, not {config.memory.size}")
        return fd

    def has(self, path: str) -> bool:
        """Whether the snapshot's machine has a part at this path of the tree."""
        return path in self._tree

    def apply(self, board: Board, accelerator: Accelerator) -> None:
        """Load its state into a newly built machine, and close it; raises SnapshotError."""
        try:
            # The interrupt controllers before the devices, which raise pending interrupts again.
            self._tree.apply([*accelerator.states(), *board.states()])
            board.restored()
        except (ConfigError, SnapshotError) as error:
            raise SnapshotError(f"{self.source}: {error}") from error
        finally:
            self.close()

    def load(self, mapping: RamMapping, offset: int, size: int) -> None:
        """Copy a range of RAM into memory that cannot map the file; raises OSError."""
        MemoryFile(mapping, self.memory_fd).load(offset, size)

    def close(self) -> None:
        """Close the memory file; its mappings stay."""
        if self.memory_fd >= 0:
            os.close(self.memory_fd)
            self.memory_fd = -1


def _read_state(folder_fd: int) -> Tree:
    with open(open_inside(folder_fd, STATE), "rb") as file:
        tree = decode(file.read)
        if file.read(1):
            raise SnapshotError("state goes on behind its announced end")
        return tree

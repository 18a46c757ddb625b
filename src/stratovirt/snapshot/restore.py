"""The snapshot that a machine starts from (-incoming): reads, checks and applies it."""

from __future__ import annotations

import os

from stratovirt._native.guest_memory import RamMapping
from stratovirt._native.memory_file import MemoryFile
from stratovirt.architectures import load, of_this_host
from stratovirt.config.errors import ConfigError
from stratovirt.config.vm_config import VmConfig
from stratovirt.snapshot.errors import SnapshotError
from stratovirt.snapshot.files import MEMORY, open_folder, open_inside, read_state
from stratovirt.snapshot.machine import MachineState, check_fits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stratovirt.accel.base import Accelerator
    from stratovirt.machine.board import Board
    from stratovirt.snapshot.state import State


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
            self._machine = MachineState.from_json(read_state(folder_fd), "state")
            check_fits(self._machine.options, config)
            self.board = self._read_board(config.machine.type)
            self.memory_fd = self._open_memory(folder_fd, config)
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

    def _read_board(self, machine_type: str) -> State:
        board: type[Board] = load(of_this_host().boards[machine_type].board)
        return board.state_type.from_json(self._machine.board, "board")

    def _open_memory(self, folder_fd: int, config: VmConfig) -> int:
        fd = open_inside(folder_fd, MEMORY)
        size = os.fstat(fd).st_size
        if size != config.memory.size or size != self._machine.memory_bytes:
            os.close(fd)
            raise SnapshotError(f"memory has {size} bytes, not {config.memory.size}")
        return fd

    def apply(self, board: Board, accelerator: Accelerator) -> None:
        """Load its state into a newly built machine, and close it; raises SnapshotError."""
        try:
            accelerator.restore(self._machine.kvm)
            # After the interrupt controllers: pending interrupts are raised again.
            board.restore(self.board)
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

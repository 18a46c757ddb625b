"""The test accelerator's commands (test-accelerator.md)."""

from collections.abc import Callable

from tests.board.conftest import Board

Start = Callable[..., Board]


def test_ram_is_read_and_written_in_every_size(start_board: Start) -> None:
    cpu = start_board().cpu
    for name, value in (("b", 0x12), ("w", 0x3456), ("l", 0x789A_BCDE), ("q", 1 << 63 | 5)):
        cpu.do(f"write{name} 0x100000 {value:x}")
        assert cpu.ask(f"read{name} 100000") == f"OK 0x{value:016x}"
    cpu.do("write 200000 4 0x01020304")
    assert cpu.ask("read 200000 4") == "OK 0x01020304"
    cpu.do("memset 200000 6 0xabcd")
    assert cpu.ask("read 200000 8") == "OK 0xabcdabcdabcd0000"


def test_what_nothing_answers_reads_zero(start_board: Start) -> None:
    cpu = start_board().cpu
    assert cpu.value("readq 0xfffffffff000") == 0
    assert cpu.value("inl 1234") == 0
    cpu.do("writeq 0xfffffffff000 ff")
    cpu.do("outb 1234 ff")
    # A block across the end of RAM (256 MiB) keeps its sound half.
    cpu.do("write fffffff 2 0xaabb")
    assert cpu.read(0xFFFFFFF, 2) == b"\xaa\0"


def test_unknown_and_malformed_commands_are_answered_and_survived(start_board: Start) -> None:
    cpu = start_board().cpu
    assert cpu.ask("dance 1 2") == "Unsupported command: dance"
    for line in (
        "readb",
        "readb xyz",
        "write 0 4 0x01",
        "writeb 0",
        "read 0 ffffffff",
        "memset 0 4 0x",
    ):
        assert cpu.ask(line).startswith("ERR ")
    assert cpu.value("readb 0") == 0


def test_a_command_without_a_newline_is_answered_once_it_is_whole(start_board: Start) -> None:
    cpu = start_board().cpu
    assert cpu.ask_piece("writel 0x1000 0x12345678") == "OK"
    assert cpu.ask_piece("readl 0x1000") == "OK 0x0000000012345678"
    assert cpu.ask_piece("clock_step") == "OK 0"
    # Newlines go on working, before, behind, and sent by themselves.
    assert cpu.ask("readb 0x1000") == "OK 0x0000000000000078"
    assert cpu.ask_piece("readb 0x1001") == "OK 0x0000000000000056"
    assert cpu.ask_piece("\nreadb 0x1002\n") == "OK 0x0000000000000034"
    assert cpu.ask_piece("readb 0x1003") == "OK 0x0000000000000012"


def test_a_long_write_is_one_command_in_however_many_pieces_it_comes(start_board: Start) -> None:
    cpu = start_board().cpu
    content = bytes(range(256)) * 1024
    assert cpu.ask_piece(f"write 100000 {len(content):x} 0x{content.hex()}") == "OK"
    assert cpu.read(0x100000, len(content)) == content


def test_a_wrong_number_of_words_is_answered_by_one_plain_line(start_board: Start) -> None:
    cpu = start_board().cpu
    assert cpu.ask("readb") == "ERR readb: 0 words follow, not 1"
    assert cpu.ask("writel 1000") == "ERR writel: 1 words follow, not 2"
    assert cpu.ask("clock_step 1 2") == "ERR clock_step: 2 words follow, not 0 or 1"
    assert cpu.ask_piece("readb 0 0") == "ERR readb: 2 words follow, not 1"


def test_the_clock_moves_only_when_told(start_board: Start) -> None:
    cpu = start_board().cpu
    assert cpu.ask("clock_step 1000") == "OK 1000"
    assert cpu.ask("clock_step") == "OK 1000"
    assert cpu.ask("clock_set 5000") == "OK 5000"
    assert cpu.ask("clock_set 400") == "OK 5000"


def test_the_uart_raises_its_line_and_eoi_lowers_it(start_board: Start) -> None:
    board = start_board("-serial", "stdio")
    cpu = board.cpu
    assert cpu.ask("query_intx 4") == "OK FALSE"
    cpu.do("outb 3f9 2")
    assert cpu.ask("query_intx 4") == "OK TRUE"
    assert cpu.ask("eoi_intx 4") == "OK TRUE"
    assert cpu.ask("query_intx 4") == "OK FALSE"
    for byte in b"hi!":
        cpu.do(f"outb 3f8 {byte:x}")
    board.machine.expect("hi!")
    assert cpu.ask("query_msix 1 2") == "OK FALSE"


def test_a_driver_that_heeds_the_transmitter_loses_no_byte_to_a_slow_reader(
    start_board: Start,
) -> None:
    board = start_board("-serial", "stdio")
    cpu = board.cpu
    sent = 0
    while cpu.value("inb 3fd") & 0x20:
        cpu.do(f"outb 3f8 {0x21 + sent % 90:x}")
        sent += 1
        assert sent < 200_000, "the transmitter never became busy"
    while len(board.machine.console) < sent:
        assert board.machine._pump(5.0)
    assert board.machine.console == bytes(0x21 + number % 90 for number in range(sent))
    assert cpu.value("inb 3fd") & 0x20


def test_the_machine_ends_when_its_processor_leaves(start_board: Start) -> None:
    board = start_board()
    assert board.cpu.value("readb 0") == 0
    board.cpu.leave()
    assert board.machine.wait() == 0

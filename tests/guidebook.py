"""The guidebook's options and properties, each with the test that shows what becomes of it.

``check`` (``make check-guidebook``) fails when a definition's property has no row here, or when a
row names a test that pytest does not collect, or one of the command line alone for what works.
"""

import subprocess
import sys
from dataclasses import dataclass

from stratovirt.config.reference import IGNORED, definitions

MISTAKES = "tests/unit/test_options.py::test_a_mistake_names_option_value_and_what_is_allowed"
REFUSALS = "tests/unit/test_refused.py"
INPUTS = "tests/guest/test_inputs.py::test_a_guest_takes_what_linux_takes"
TRACE = "tests/kvm/test_trace.py"
REFUSED = f"{REFUSALS}::test_what_a_board_cannot_have_is_refused_in_one_line"
IGNORES = "tests/unit/test_options.py::test_what_libvirt_passes_and_nothing_else_is_ignored"
PROCESS = "tests/kvm/test_process.py"
MEMORY = "tests/kvm/test_memory.py"
CHARDEVS = "tests/board/test_chardevs.py"
MONITOR = "tests/board/test_monitor.py"
BOOT = "tests/guest/test_boot.py"
DISK = "tests/guest/test_disk.py"
MANAGER = "tests/guest/test_manager.py"
BLOCK = "tests/board/test_virtio_blk.py"

NET = "tests/guest/test_net.py"
DEVICES = "tests/guest/test_devices.py"
RNG = f"{DEVICES}::test_the_guest_gets_random_bytes"
BALLOON = f"{DEVICES}::test_the_balloon_moves_memory_between_guest_and_host"
VSOCK = f"{DEVICES}::test_64_mib_come_back_over_vsock_unharmed"
PACKETS = f"{NET}::test_packets_flow_both_ways_unharmed"
PAIRS = f"{NET}::test_several_queue_pairs_come_up"
TOPOLOGY = f"{BOOT}::test_the_guest_sees_the_cpus_and_memory_of_its_command_line"
SERIAL_SOCKET = f"{CHARDEVS}::test_a_serial_port_on_a_unix_socket_serves_one_client_after_the_other"
SEVERAL_MONITORS = f"{CHARDEVS}::test_several_monitors_each_hear_events"
NAMES = f"{PROCESS}::test_names_show_in_the_host"
IOTHREADS = "tests/board/test_iothreads.py::test_devices_of_one_iothread_share_its_thread"
TCP = f"{CHARDEVS}::test_a_monitor_on_tcp"

TOPOLOGIES = "tests/guest/test_topology.py::test_the_guests_tools_see_what_was_configured"
NUMA = f"{TOPOLOGIES}[two nodes and 4 GiB across the hole]"
POLICY = "tests/guest/test_topology.py::test_the_hosts_nodes_are_used_as_the_policies_say"
BACKEND = dict.fromkeys(
    ("id", "size", "policy", "host-nodes", "share", "prealloc", "dump"),
    f"{MEMORY}::test_a_nodes_memory_is_mapped_as_its_backend_says",
)

SLOTS = (
    "tests/board/test_hot_replace.py::"
    "test_disks_of_the_command_line_have_the_first_slots_and_can_be_replaced"
)
Q35 = "tests/guest/test_q35.py::test_every_device_works_over_pci"
RESTARTS = "tests/guest/test_q35.py::test_a_guest_that_reboots_starts_anew"
HOTPLUG = "tests/guest/test_hotplug.py::test_devices_come_and_go_under_load"
FIRMWARE = (
    "tests/guest/test_firmware.py::test_debian_boots_reboots_powers_off_and_keeps_its_boot_entry"
)
VHOST_USER = (
    "tests/guest/test_vhost_user.py::test_a_guest_talks_through_a_back_end_that_comes_and_goes"
)
VFIO = "tests/guest/test_vfio.py::test_a_card_of_the_host_works_in_the_guest"
Q35_BOARD = "tests/board/test_q35.py"
PLACE = dict.fromkeys(("bus", "addr", "multifunction"), Q35)

WORKS: dict[str, dict[str, str]] = {
    "-machine": {
        "type": Q35,
        "dump-guest-core": f"{MEMORY}::test_memory_can_be_kept_out_of_core_dumps",
        "mem-share": f"{MEMORY}::test_shared_memory_is_a_memfd_that_others_could_map",
        "accel": TOPOLOGY,
        "usb": MISTAKES,
        "hot-replace": (
            "tests/board/test_hot_replace.py::test_a_switch_leaves_the_empty_devices_out"
        ),
    },
    "-accel": {"accel": f"{MONITOR}::test_paused_from_the_start_by_option"},
    "-cpu": {"model": IGNORES},
    "-smp": {
        "cpus": TOPOLOGY,
        "maxcpus": INPUTS,
        "sockets": f"{TOPOLOGIES}[three sockets]",
        "dies": f"{TOPOLOGIES}[clusters of threads in dies]",
        "clusters": f"{TOPOLOGIES}[clusters of threads in dies]",
        "cores": TOPOLOGY,
        "threads": TOPOLOGY,
    },
    "-m": {"size": TOPOLOGY},
    "-incoming": {
        "uri": "tests/guest/test_snapshot.py::test_every_clone_ends_what_its_template_began"
    },
    "-mem-path": {"path": f"{MANAGER}::test_a_guest_lives_in_huge_pages"},
    "-mem-prealloc": {"": f"{MEMORY}::test_preallocated_memory_is_resident_before_the_guest_runs"},
    "-kernel": {"path": f"{BOOT}::test_each_form_of_the_kernel_boots"},
    "-initrd": {"path": f"{BOOT}::test_each_form_of_the_kernel_boots"},
    "-append": {"text": f"{BOOT}::test_a_kernel_panic_ends_the_machine"},
    "-drive": {
        "id": f"{DISK}::test_an_ext4_root_is_mounted_written_and_clean_afterwards",
        "file": f"{DISK}::test_an_ext4_root_is_mounted_written_and_clean_afterwards",
        "readonly": f"{DISK}::test_a_readonly_drive_is_readonly_in_the_guest",
        "direct": f"{DISK}::test_what_the_guest_reads_and_writes_is_what_the_host_has",
        "throttling.iops-total": f"{BLOCK}::test_a_limited_disk_keeps_its_pace_over_time",
        "if": FIRMWARE,
        "format": MISTAKES,
    },
    "-device virtio-blk-device": {
        "drive": f"{DISK}::test_an_ext4_root_is_mounted_written_and_clean_afterwards",
        "id": SLOTS,
        "serial": f"{DISK}::test_an_ext4_root_is_mounted_written_and_clean_afterwards",
        "iothread": IOTHREADS,
        "num-queues": f"{BLOCK}::test_each_queue_of_a_disk_is_served",
        "bootindex": f"{REFUSALS}::test_a_boot_order_is_taken_where_no_firmware_reads_it",
    },
    "-global": {"pcie-root-port.fast-unplug": f"{HOTPLUG}[1]"},
    "-uuid": {"uuid": Q35},
    "-drive if=pflash": dict.fromkeys(("file", "unit", "readonly", "if"), FIRMWARE)
    | dict.fromkeys(("id", "format"), MISTAKES),
    "-netdev vhost-user": dict.fromkeys(("id", "chardev", "queues"), VHOST_USER),
    "-device virtio-blk-pci": PLACE
    | dict.fromkeys(("drive", "id", "serial", "num-queues"), Q35)
    | {"iothread": f"{Q35_BOARD}::test_a_disk_on_pci_uses_its_iothread", "bootindex": FIRMWARE},
    "-device virtio-net-pci": PLACE
    | dict.fromkeys(("netdev", "id", "mac", "mq"), Q35)
    | {"iothread": IOTHREADS}
    | dict.fromkeys(("vhost", "vhostfd", "vhostfds"), f"{NET}::test_vhost_by_descriptor"),
    "-device virtio-serial-pci": PLACE | {"id": Q35},
    "-device vhost-vsock-pci": PLACE
    | {"guest-cid": Q35, "id": Q35, "vhostfd": f"{DEVICES}::test_vsock_by_descriptor"},
    "-device virtio-balloon-pci": PLACE | {"id": Q35, "deflate-on-oom": Q35},
    "-device virtio-rng-pci": PLACE | dict.fromkeys(("rng", "id", "max-bytes", "period"), Q35),
    "-device pcie-root-port": dict.fromkeys(("bus", "addr", "multifunction"), f"{HOTPLUG}[0]")
    | {
        "id": RESTARTS,
        "port": RESTARTS,
        "chassis": f"{Q35_BOARD}::test_a_port_takes_libvirts_chassis",
    },
    "-device vfio-pci": dict.fromkeys(("bus", "addr", "multifunction", "host", "id"), VFIO),
    "-numa node": {
        "nodeid": NUMA,
        "cpus": f"{TOPOLOGIES}[the guidebook's cpu lists]",
        "memdev": NUMA,
    },
    "-numa dist": dict.fromkeys(("src", "dst", "val"), NUMA),
    "-object memory-backend-ram": {
        "id": NUMA,
        "size": NUMA,
        "policy": POLICY,
        "host-nodes": POLICY,
        "share": f"{MEMORY}::test_a_nodes_memory_is_mapped_as_its_backend_says",
        "prealloc": POLICY,
        "dump": f"{MEMORY}::test_a_nodes_memory_is_mapped_as_its_backend_says",
    },
    "-object memory-backend-file": BACKEND | {"mem-path": BACKEND["size"]},
    "-object memory-backend-memfd": BACKEND
    | {"hugetlb": f"{MANAGER}::test_a_node_lives_in_huge_pages_of_a_memfd"},
    "-object iothread": {"id": IOTHREADS},
    "-object rng-random": {"id": RNG, "filename": RNG},
    "-netdev tap": {
        "id": PACKETS,
        "ifname": PACKETS,
        "fd": f"{NET}::test_a_tap_handed_over_by_descriptor",
        "fds": f"{NET}::test_a_tap_handed_over_by_descriptor",
        "queues": PAIRS,
        "vhost": PACKETS,
        "vhostfd": f"{NET}::test_vhost_by_descriptor",
        "vhostfds": f"{NET}::test_vhost_by_descriptor",
    },
    "-device virtio-net-device": {
        "netdev": PACKETS,
        "id": PACKETS,
        "mac": PACKETS,
        "iothread": f"{NET}::test_a_card_and_a_disk_on_one_iothread",
        "mq": PAIRS,
        "vhost": f"{NET}::test_vhost_by_descriptor",
        "vhostfd": f"{NET}::test_vhost_by_descriptor",
        "vhostfds": f"{NET}::test_vhost_by_descriptor",
    },
    "-device virtio-serial-device": {"id": f"{DEVICES}::test_eight_consoles_at_once"},
    "-device virtconsole": {
        "chardev": f"{DEVICES}::test_eight_consoles_at_once",
        "id": f"{DEVICES}::test_eight_consoles_at_once",
    },
    "-device vhost-vsock-device": {
        "guest-cid": VSOCK,
        "id": VSOCK,
        "vhostfd": f"{DEVICES}::test_vsock_by_descriptor",
    },
    "-device virtio-balloon-device": {"id": BALLOON, "deflate-on-oom": BALLOON},
    "-device virtio-rng-device": {
        "rng": RNG,
        "id": f"{DEVICES}::test_the_rate_of_random_bytes_is_held",
        "max-bytes": f"{DEVICES}::test_the_rate_of_random_bytes_is_held",
        "period": f"{DEVICES}::test_the_rate_of_random_bytes_is_held",
    },
    "-chardev stdio": {"id": f"{CHARDEVS}::test_a_monitor_on_standard_input_and_output_indented"},
    "-chardev pty": {"id": f"{MANAGER}::test_a_shell_on_a_pty"},
    "-chardev socket": {
        "id": SERIAL_SOCKET,
        "path": SERIAL_SOCKET,
        "host": TCP,
        "port": TCP,
        "server": SERIAL_SOCKET,
        "nowait": SERIAL_SOCKET,
        "wait": f"{CHARDEVS}::test_a_server_that_waits_lets_the_machine_start_with_its_client",
        "reconnect": f"{CHARDEVS}::test_a_client_chardev_connects_and_reconnects",
    },
    "-chardev file": {
        "id": f"{CHARDEVS}::test_a_serial_port_on_a_file_writes_and_appends",
        "path": f"{CHARDEVS}::test_a_serial_port_on_a_file_writes_and_appends",
        "append": f"{CHARDEVS}::test_a_serial_port_on_a_file_writes_and_appends",
    },
    "-serial": {"": f"{MANAGER}::test_a_shell_on_a_pty"},
    "-qmp": {
        "server": TCP,
        "nowait": TCP,
        "wait": f"{CHARDEVS}::test_a_machine_that_waits_for_its_client_can_be_ended",
    },
    "-mon": {
        "chardev": SEVERAL_MONITORS,
        "id": SEVERAL_MONITORS,
        "mode": SEVERAL_MONITORS,
        "pretty": f"{CHARDEVS}::test_a_monitor_on_standard_input_and_output_indented",
    },
    "-name": {"guest": NAMES, "process": NAMES, "debug-threads": NAMES},
    "-S": {"": f"{MONITOR}::test_paused_from_the_start_by_option"},
    "-daemonize": {"": f"{PROCESS}::test_a_daemon_returns_when_the_machine_runs_and_ends_by_qmp"},
    "-pidfile": {"path": f"{PROCESS}::test_a_pidfile_left_by_a_killed_machine_is_taken_over"},
    "-D": {"path": f"{PROCESS}::test_log_lines_have_time_level_and_module"},
    "-trace": {"events": f"{TRACE}::test_events_named_in_a_file_are_traced_and_others_are_not"},
    "-disable-seccomp": {
        "": "tests/kvm/test_lockdown.py::test_without_the_filter_the_same_attack_works"
    },
    "-mod-test": {"path": f"{MONITOR}::test_paused_from_the_start_by_option"},
    "-help": {"": "tests/unit/test_options.py::test_help_lists_every_property_with_what_it_allows"},
    "-version": {"": f"{REFUSALS}::test_the_version_is_printed"},
}
"""Option, property, test; a property "" is the option itself."""

PROPERTIES = "tests/board/test_device_properties.py"
RINGS = f"{PROPERTIES}::test_a_disk_has_rings_and_blocks_as_large_as_asked_for"
SENT = {"romfile": RINGS, "disable-modern": RINGS}
SENT_WITH_DISK = dict.fromkeys(
    ("share-rw", "write-cache", "logical_block_size", "physical_block_size", "queue-size"), RINGS
)
for flag, known in WORKS.items():
    if flag.startswith(("-device virtio-", "-device vhost-")):
        known |= SENT
        if flag.endswith("-pci"):
            known["vectors"] = f"{PROPERTIES}::test_vectors_are_the_size_of_the_table_of_messages"
    if flag.startswith("-device virtio-blk"):
        known |= SENT_WITH_DISK
    if flag.startswith("-device virtio-net"):
        known["queue-size"] = f"{PROPERTIES}::test_a_card_has_rings_as_large_as_asked_for"
for bus in ("device", "pci"):
    WORKS[f"-device virtio-balloon-{bus}"]["free-page-reporting"] = (
        f"{DEVICES}::test_what_the_guest_frees_is_the_hosts_again"
    )
WORKS["-device virtconsole"]["nr"] = (
    f"{PROPERTIES}::test_ports_of_consoles_are_numbered_from_nought"
)
WORKS["-netdev tap"] |= dict.fromkeys(
    ("script", "downscript"), f"{PROPERTIES}::test_a_tap_without_scripts_is_what_there_is"
)


@dataclass(frozen=True)
class Row:
    """One line of docs/guidebook.md."""

    section: str
    flag: str
    name: str
    state: str
    test: str


WITHOUT_EFFECT = {
    ("-machine", "usb"), ("-cpu", "model"), ("-device virtio-blk-device", "bootindex"),
    ("-drive", "format"), ("-drive if=pflash", "format"), ("-drive if=pflash", "id"),
}  # fmt: skip
"""Accepted for libvirt: only one value exists, or nothing reads it. Their tests show just that."""

VIRT = Row("1.1", "-machine", "type=virt", "refused", MISTAKES + "[-machine virt]")

PRINTED = ("-help", "-version")
"""Options whose effect is what they print."""

SECTIONS = {
    "-machine": "1.1", "-accel": "1.1", "-cpu": "7", "-smp": "1.2", "-m": "1.3.1",
    "-mem-prealloc": "1.3.2", "-mem-path": "1.4", "-numa node": "1.5", "-numa dist": "1.5",
    "-kernel": "1.6", "-append": "1.6", "-initrd": "1.7", "-global": "1.8", "-D": "1.9",
    "-daemonize": "1.10", "-pidfile": "1.10", "-object iothread": "2.1", "-drive": "2.2",
    "-device virtio-blk-device": "2.2", "-device virtio-blk-pci": "2.2", "-netdev tap": "2.3",
    "-netdev vhost-user": "2.3", "-device virtio-net-device": "2.3",
    "-device virtio-net-pci": "2.3", "-device virtio-serial-device": "2.4",
    "-device virtio-serial-pci": "2.4", "-device virtconsole": "2.4",
    "-device vhost-vsock-device": "2.5", "-device vhost-vsock-pci": "2.5", "-serial": "2.6",
    "-device virtio-balloon-device": "2.7", "-device virtio-balloon-pci": "2.7",
    "-object rng-random": "2.8", "-device virtio-rng-device": "2.8",
    "-device virtio-rng-pci": "2.8", "-device pcie-root-port": "2.9", "-drive if=pflash": "2.10",
    "-device vfio-pci": "2.11", "-chardev stdio": "2.12", "-chardev pty": "2.12",
    "-chardev socket": "2.12", "-chardev file": "2.12", "-trace": "3", "-disable-seccomp": "4",
    "-incoming": "5.1", "-object memory-backend-ram": "1.5",
}  # fmt: skip
"""The guidebook's section of each option; the others are QEMU's or our own."""

JAIL = "tests/guest/test_ozone.py"
EXAMPLE = f"{JAIL}::test_the_guidebooks_example_runs_a_guest_in_its_jail"
OZONE = {
    **dict.fromkeys(("-name", "-gid", "-uid", "-netns", "-source", "-numa", "-cgroup"), EXAMPLE),
    "-exec_file": EXAMPLE,
    "-capability": f"{JAIL}::test_a_static_program_has_the_capabilities_it_was_given",
    "-clean-resource": f"{JAIL}::test_killed_at_any_moment_it_leaves_what_one_command_cleans",
    "--": EXAMPLE,
}
"""Arguments of the jail, which is another program."""

LOG_LEVEL_TEST = "tests/kvm/test_log.py::test_info_tells_a_machines_life_in_about_a_dozen_lines"


def rows() -> list[Row]:
    """Every option and property, in the order of the reference."""
    found: list[Row] = []
    for option in definitions():
        section = SECTIONS.get(option.flag, "")
        tests = WORKS.get(option.flag, {})
        for name in option.fields or [""]:
            state, test = "works", tests.get(name, "")
            if (option.flag, name) in WITHOUT_EFFECT:
                state = "ignored"
            if not test:
                state, test = "refused", f"{REFUSED}[{_refusal(option.flag, name)}]"
            found.append(Row(section, option.flag, name, state, test))
    found.append(VIRT)
    found.append(Row("1.9", "STRATOVIRT_LOG_LEVEL", "", "works", LOG_LEVEL_TEST))
    found += [Row("6.1", f"ozone {flag}", "", "works", test) for flag, test in OZONE.items()]
    found += [Row("7", flag, "", "ignored", IGNORES) for flag in IGNORED]
    return found


def _refusal(flag: str, name: str) -> str:
    return f"{flag},{name}" if flag in WORKS else flag


def check() -> int:
    """Say which rows have no test; the exit status."""
    collected = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-o", "addopts=", "tests"],
        capture_output=True, text=True, check=False,
    ).stdout.splitlines()  # fmt: skip
    known = {line for line in collected if "::" in line}
    known |= {line.partition("[")[0] for line in known}
    missing = [row for row in rows() if row.test not in known]
    for row in missing:
        print(f"{row.flag} {row.name}: there is no test {row.test}", file=sys.stderr)
    defined = {(option.flag, name) for option in definitions() for name in option.fields or [""]}
    stale = [(f, n) for f, tests in WORKS.items() for n in tests if (f, n) not in defined]
    # A test of the command line alone shows that a property is accepted, not what it does.
    alone = [
        row for row in rows()
        if row.state == "works" and row.test.startswith("tests/unit/") and row.flag not in PRINTED
    ]  # fmt: skip
    for row in alone:
        print(f"{row.flag} {row.name}: {row.test} shows no effect", file=sys.stderr)
    for flag, name in stale:
        print(f"{flag} {name}: there is no such property any more", file=sys.stderr)
    print(f"{len(rows())} rows, {len(missing)} without a test")
    return 1 if missing or stale or alone or not known else 0


if __name__ == "__main__":
    sys.exit(check())

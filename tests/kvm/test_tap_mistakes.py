"""A tap that cannot be one is refused for the right reason."""

import subprocess
from pathlib import Path

import pytest

from tests.machine_process import run_to_end
from tests.payload import SPIN, write_kernel

BRIDGE, TUN = "svtest-br", "svtest-tun"


@pytest.mark.parametrize(
    ("name", "make", "reason"),
    [
        ("lo", [], "it is no tap"),
        (BRIDGE, ["link", "add", BRIDGE, "type", "bridge"], "it is no tap"),
        (TUN, ["tuntap", "add", TUN, "mode", "tun"],
         "it is a tun, which carries no Ethernet frames, and no tap"),
        (TUN, ["tuntap", "add", TUN, "mode", "tap", "multi_queue"],
         "it was made with multi_queue"),
    ],
)  # fmt: skip
def test_an_interface_that_is_no_tap_is_said_to_be_none(
    tmp_path: Path, name: str, make: list[str], reason: str
) -> None:
    if make:
        subprocess.run(["ip", *make], check=True)
    try:
        done = run_to_end(
            "-kernel", str(write_kernel(tmp_path, SPIN)), "-netdev", f"tap,id=n,ifname={name}",
            "-device", "virtio-net-device,netdev=n",
        )  # fmt: skip
    finally:
        if make:
            subprocess.run(["ip", "link", "del", name], check=True)
    assert done.stderr == (f"stratovirt: -netdev tap,id=n,ifname={name}: cannot use it: {reason}\n")

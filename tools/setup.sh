#!/usr/bin/env bash
# Installs the system packages the project needs (as root; otherwise says which) and makes .venv.
# Idempotent; does nothing when nothing changed.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=(
    python3 python3-venv python3-dev libpython3.11-dev gcc libc6-dev linux-libc-dev liburing-dev libseccomp-dev binutils
    qemu-system-x86 seabios busybox-static cpio kmod lz4 xz-utils e2fsprogs acpica-tools ovmf pciutils
    mmdebstrap genext2fs mtools fdisk grub-efi-amd64-bin grub-common zstd
    dpdk dpdk-dev librte-net-vhost23 librte-net-af-packet23 librte-mempool-ring23
    gcc-aarch64-linux-gnu libc6-dev-arm64-cross device-tree-compiler
    iproute2 strace fio iperf3 ethtool kexec-tools numactl
)
stamp=.venv/.setup-$(cat pyproject.toml tools/setup.sh | sha256sum | cut -c1-16)
[ -e "$stamp" ] && exit 0

missing=()
for package in "${packages[@]}"; do
    state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$state" = installed ] || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
    if [ "$(id -u)" = 0 ]; then
        echo "setup: installing ${missing[*]}"
        export DEBIAN_FRONTEND=noninteractive
        apt-get update -qq || { echo "setup: apt-get update failed; check the network" >&2; exit 1; }
        apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
    else
        echo "setup: these Debian packages are missing; install them as root:" >&2
        echo "    apt-get install --no-install-recommends ${missing[*]}" >&2
        exit 1
    fi
elif [ "$(id -u)" = 0 ] && ! apt-cache show "linux-image-cloud-$(dpkg --print-architecture)" >/dev/null 2>&1; then
    # The lab downloads kernels by name, which needs package lists.
    apt-get update -qq
fi

python=$(command -v python3)
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    { echo "setup: Python 3.11 or newer is needed, $python is older" >&2; exit 1; }
echo "setup: making .venv"
[ -x .venv/bin/python ] || "$python" -m venv .venv
pip=(.venv/bin/python -m pip install --quiet --disable-pip-version-check)
"${pip[@]}" $(.venv/bin/python - <<'END'
import tomllib
with open("pyproject.toml", "rb") as file:
    project = tomllib.load(file)
print(*project["build-system"]["requires"], *project["project"]["optional-dependencies"]["test"])
END
)
echo "setup: building the native modules"
"${pip[@]}" --no-build-isolation --no-deps --editable .
rm -f .venv/.setup-*
touch "$stamp"

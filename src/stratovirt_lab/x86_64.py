"""The lab on x86_64: QEMU's q35 with AMD's virtualization and Intel's IOMMU."""

from stratovirt_lab.architectures import Architecture
from stratovirt_lab.x86_64_bzimage import unpack
from stratovirt_lab.x86_64_probe import probe
from stratovirt_lab.x86_64_qemu import emulator

ARCHITECTURE = Architecture(
    debian="amd64",
    console="ttyS0",
    emulator=emulator,
    machine=(
        "-M", "q35,kernel-irqchip=split",
        "-device", "intel-iommu,intremap=off,device-iotlb=on",
        "-cpu", "max,+svm,-vgif",
    ),
    host_words="intel_iommu=on iommu=pt",
    host_modules=("kvm_amd",),
    hold_kvm="stratovirt_lab.x86_64_hold_kvm",
    registers=("CPU#", "RIP=", "CR3="),
    # It executed a breakpoint that the kernel had taken away again, or lost a task's stack: what
    # an emulator does whose SVM is not mended, and what no guest can do to its host's kernel.
    kernel_faults=r"\bint3: 0000 |\bdouble fault: 0000 ",
    unpack_kernel=unpack,
    grub="x86_64-efi",
    efi_program="BOOTX64.EFI",
    probe=probe,
)  # fmt: skip

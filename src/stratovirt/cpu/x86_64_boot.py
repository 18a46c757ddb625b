"""Registers of a vCPU that starts a kernel at its 64-bit entry (Linux x86 boot protocol)."""

from __future__ import annotations

from stratovirt._native.guest_memory import GuestMemory
from stratovirt._native.x86_64_kvm import X8664Vcpu

GDT_ADDRESS = 0x500
IDT_ADDRESS = 0x520
BOOT_CS, BOOT_DS = 0x10, 0x18

CR0_PE, CR0_MP, CR0_ET, CR0_NE, CR0_PG = 1 << 0, 1 << 1, 1 << 4, 1 << 5, 1 << 31
CR4_PAE = 1 << 5
EFER_LME, EFER_LMA = 1 << 8, 1 << 10
RFLAGS_RESERVED = 1 << 1

PTE_PRESENT_WRITABLE = 0x3
PDE_LARGE = 0x83

MSR_IA32_MISC_ENABLE = 0x1A0
MISC_ENABLE_FAST_STRING = 1
MSR_MTRR_DEF_TYPE = 0x2FF
MTRR_ENABLED_WRITE_BACK = 1 << 11 | 6
CLEARED_MSRS = (
    0x10,  # IA32_TIME_STAMP_COUNTER
    0x174,
    0x175,
    0x176,  # IA32_SYSENTER_CS, _ESP, _EIP
    0xC000_0081,
    0xC000_0082,
    0xC000_0083,
    0xC000_0084,  # STAR, LSTAR, CSTAR, SYSCALL_MASK
    0xC000_0102,  # KERNEL_GS_BASE
)

FPU_CONTROL_DEFAULT = 0x37F
MXCSR_DEFAULT = 0x1F80

LVT_LINT0, LVT_LINT1 = 0x350, 0x360
DELIVERY_NMI, DELIVERY_EXTINT = 4, 7


class EntryPoint:
    """Start of the first vCPU: long mode at `rip` with RSI = address of the boot parameters."""

    __slots__ = ("boot_params", "page_tables", "rip", "stack")

    def __init__(self, rip: int, boot_params: int, page_tables: int, stack: int) -> None:
        self.rip, self.boot_params = rip, boot_params
        self.page_tables, self.stack = page_tables, stack


def write_page_tables(memory: GuestMemory, pml4: int) -> None:
    """Identity-map the first GiB with 2 MiB pages: PML4, PDPT and PD at `pml4`, +4K, +8K."""
    pdpt, pd = pml4 + 0x1000, pml4 + 0x2000
    memory.write(pml4, (pdpt | PTE_PRESENT_WRITABLE).to_bytes(8, "little"))
    memory.write(pdpt, (pd | PTE_PRESENT_WRITABLE).to_bytes(8, "little"))
    memory.write(pd, b"".join((i << 21 | PDE_LARGE).to_bytes(8, "little") for i in range(512)))


def write_descriptor_tables(memory: GuestMemory) -> None:
    """The GDT that the boot protocol asks for (CS 0x10, DS 0x18) and an empty IDT."""
    code, flat = 0x00AF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF
    table = b"".join(entry.to_bytes(8, "little") for entry in (0, 0, code, flat))
    memory.write(GDT_ADDRESS, table)
    memory.write(IDT_ADDRESS, bytes(8))


def _segment(selector: int, kind: int, *, long_mode: bool) -> dict[str, int]:
    return {
        "base": 0,
        "limit": 0xFFFF_FFFF,
        "selector": selector,
        "type": kind,
        "present": 1,
        "dpl": 0,
        "db": 0 if long_mode else 1,
        "s": 1,
        "l": 1 if long_mode else 0,
        "g": 1,
        "avl": 0,
        "unusable": 0,
    }


def set_boot_registers(vcpu: X8664Vcpu, entry: EntryPoint) -> None:
    """Set the first vCPU's registers: 64-bit mode at the kernel's entry."""
    sregs = vcpu.get_sregs()
    sregs["cs"] = _segment(BOOT_CS, 0xB, long_mode=True)
    for name in ("ds", "es", "fs", "gs", "ss"):
        sregs[name] = _segment(BOOT_DS, 0x3, long_mode=False)
    sregs["tr"] = {
        **sregs["tr"],
        "selector": 0,
        "base": 0,
        "limit": 0xFFFF,
        "type": 0xB,
        "present": 1,
        "s": 0,
        "unusable": 0,
    }
    sregs["gdt"] = {"base": GDT_ADDRESS, "limit": 4 * 8 - 1}
    sregs["idt"] = {"base": IDT_ADDRESS, "limit": 7}
    sregs["cr0"] = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_PG
    sregs["cr3"] = entry.page_tables
    sregs["cr4"] |= CR4_PAE
    sregs["efer"] |= EFER_LME | EFER_LMA
    vcpu.set_sregs(sregs)
    vcpu.set_regs(
        {
            "rflags": RFLAGS_RESERVED,
            "rip": entry.rip,
            "rsi": entry.boot_params,
            "rsp": entry.stack,
            "rbp": entry.stack,
        }
    )


def set_common_state(vcpu: X8664Vcpu) -> None:
    """Set the initial state of every vCPU: FPU, MSRs and the LAPIC's local interrupt pins."""
    vcpu.set_fpu(FPU_CONTROL_DEFAULT, MXCSR_DEFAULT)
    msrs = [(index, 0) for index in CLEARED_MSRS]
    msrs.append((MSR_IA32_MISC_ENABLE, MISC_ENABLE_FAST_STRING))
    msrs.append((MSR_MTRR_DEF_TYPE, MTRR_ENABLED_WRITE_BACK))
    for msr in msrs:
        # One at a time: KVM_SET_MSRS stops at the first MSR that KVM does not know.
        vcpu.set_msrs([msr])
    lapic = vcpu.get_lapic()
    for register, mode in ((LVT_LINT0, DELIVERY_EXTINT), (LVT_LINT1, DELIVERY_NMI)):
        value = int.from_bytes(lapic[register : register + 4], "little")
        value = value & ~0x700 | mode << 8
        lapic[register : register + 4] = value.to_bytes(4, "little")
    vcpu.set_lapic(lapic)

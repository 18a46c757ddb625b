"""The CPUID instruction of the host's CPU, in this thread."""

from libc.stdint cimport uint32_t

cdef extern from "cpuid.h" nogil:
    void __cpuid_count(uint32_t leaf, uint32_t subleaf, uint32_t eax, uint32_t ebx, uint32_t ecx,
                       uint32_t edx)


def cpuid(uint32_t leaf, uint32_t subleaf=0):
    """(eax, ebx, ecx, edx) of a leaf that the CPU has."""
    cdef uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0
    __cpuid_count(leaf, subleaf, eax, ebx, ecx, edx)
    return eax, ebx, ecx, edx

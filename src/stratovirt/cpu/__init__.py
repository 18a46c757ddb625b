"""vCPU state at start: topology and CPUID (``x86_64_cpuid``), registers (``x86_64_boot``)."""

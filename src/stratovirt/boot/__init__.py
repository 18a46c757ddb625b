"""Direct kernel boot: image formats (``bzimage``, ``elf``, ``raw_image``), ``initrd``,
``boot_params`` (the zero page), ``mptable``, and ``x86_64_linux``, which puts them together."""

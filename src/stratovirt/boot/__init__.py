"""Direct kernel boot: kernel files and ``initrd``; formats and boot protocol by architecture."""

"""ACPI: the byte code (``aml``) and the static tables, from typed descriptions."""

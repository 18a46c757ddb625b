"""ACPI: the byte code (``aml``) and the static tables (``tables``), from typed descriptions."""

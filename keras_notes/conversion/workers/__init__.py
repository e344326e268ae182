"""The programs of conversion, each in a process of its own."""

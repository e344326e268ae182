"""What layers and operations compute in integers."""

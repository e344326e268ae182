"""What teachers and students say of a batch."""

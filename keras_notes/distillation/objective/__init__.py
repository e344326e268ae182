"""What a student is trained to minimize."""

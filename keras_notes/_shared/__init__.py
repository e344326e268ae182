"""Private: what several stages use. Empty, so that its modules load without Keras where they can."""

"""The Keras side of conversion: the graph that is deployed."""

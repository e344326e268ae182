"""Private: what touches a .tflite file at run time, in a process of its own. Imports neither Keras nor TensorFlow."""

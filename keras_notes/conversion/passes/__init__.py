"""The file side of conversion: passes over .tflite files."""

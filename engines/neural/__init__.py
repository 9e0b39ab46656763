"""What runs on torch. Imported inside an engine's `load` and by nothing else: importing it costs seconds and memory."""

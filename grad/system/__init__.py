"""The machine and the process: errors, files, options, devices, processes; no images."""

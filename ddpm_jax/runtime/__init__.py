"""What lies between the program and the machine: paths, devices, progress, pictures, libraries' noise."""

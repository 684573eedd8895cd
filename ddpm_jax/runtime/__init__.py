"""What connects the program to the machine: paths, devices, progress bars, pictures, other libraries' messages."""
